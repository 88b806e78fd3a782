import io.apicurio.registry.serde.avro.AvroKafkaDeserializer;
import io.apicurio.registry.serde.avro.AvroKafkaSerializer;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.generic.GenericRecordBuilder;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Sends a visit as Avro and reads its result and its change, with Kafka's client and Apicurio's serializers for Java.
 *
 * <p>Arguments: a licence plate, a center and the time of the visit in microseconds. Prints the status and the two
 * times.
 */
public class Visit {
  static final String REQUESTS = "visitor.visits.requests";
  static final String RESULTS = "visitor.visits.results";
  static final String CHANGES = "visitor.visits.changes.visit";
  static final String SUBJECT = REQUESTS + "-visitor.VisitsCreateRequest";
  static final String KEY = System.getenv("REGISTRY_KEY");

  public static void main(String[] arguments) throws Exception {
    String plate = arguments[0], center = arguments[1], requestId = UUID.randomUUID().toString();
    Map<String, Object> kafka = Map.of("bootstrap.servers", System.getenv("KAFKA_BOOTSTRAP"));
    Map<String, Object> registry =
        Map.of(
            "apicurio.registry.url", System.getenv("APICURIO_URL"),
            "apicurio.registry.auth.username", "any",
            "apicurio.registry.auth.password", KEY,
            "apicurio.registry.artifact.artifact-id", SUBJECT,
            "apicurio.registry.find-latest", "true");
    var serializer = new AvroKafkaSerializer<GenericRecord>();
    serializer.configure(registry, false);
    var deserializer = new AvroKafkaDeserializer<GenericRecord>();
    deserializer.configure(registry, false);

    try (var producer = new KafkaProducer<>(kafka, new StringSerializer(), serializer)) {
      var request = new ProducerRecord<>(REQUESTS, plate, visit(plate, center, Long.parseLong(arguments[2])));
      header(request, "ce_specversion", "1.0");
      header(request, "ce_id", requestId);
      header(request, "ce_type", "visitor.visits.create");
      header(request, "ce_source", "java");
      header(request, "content-type", "application/avro");
      producer.send(request).get();
    }

    var options = new HashMap<>(kafka);
    options.put("group.id", requestId);
    options.put("auto.offset.reset", "earliest");
    GenericRecord result = null, change = null;
    try (var consumer = new KafkaConsumer<>(options, new StringDeserializer(), new ByteArrayDeserializer())) {
      consumer.subscribe(List.of(RESULTS, CHANGES));
      while (result == null || change == null) {
        for (ConsumerRecord<String, byte[]> message : consumer.poll(Duration.ofSeconds(1))) {
          if (message.topic().equals(RESULTS) && requestId.equals(header(message, "ce_id"))) {
            result = deserializer.deserialize(RESULTS, message.value());
          }
          if (message.topic().equals(CHANGES)) {
            GenericRecord value = deserializer.deserialize(CHANGES, message.value());
            change = requestId.equals(value.get("causedBy").toString()) ? value : change;
          }
        }
      }
    }
    System.out.printf("[%s, %s, %s]%n", result.get("status"), date(result, "body"), date(change, "after"));
    System.exit(0); // The deserializer's HTTP client has threads of its own.
  }

  /** The record is built from the schema that the registry has. */
  private static GenericRecord visit(String plate, String center, long micros) throws Exception {
    URI uri = URI.create(System.getenv("REGISTRY_URL") + "/subjects/" + SUBJECT + "/versions/latest/schema");
    String credentials = Base64.getEncoder().encodeToString(("any:" + KEY).getBytes());
    var request = HttpRequest.newBuilder(uri).header("Authorization", "Basic " + credentials).build();
    Schema schema = new Schema.Parser().parse(HttpClient.newHttpClient().send(request, BodyHandlers.ofString()).body());
    var path = new GenericRecordBuilder(schema.getField("path").schema()).set("visitType", "entry").build();
    var body =
        new GenericRecordBuilder(schema.getField("body").schema())
            .set("licensePlate", plate)
            .set("pcCode", center)
            .set("visitDate", micros)
            .build();
    return new GenericRecordBuilder(schema).set("path", path).set("body", body).build();
  }

  private static void header(ProducerRecord<?, ?> request, String name, String value) {
    request.headers().add(name, value.getBytes());
  }

  private static String header(ConsumerRecord<?, ?> message, String name) {
    return new String(message.headers().lastHeader(name).value());
  }

  private static Object date(GenericRecord value, String part) {
    return ((GenericRecord) value.get(part)).get("visitDate");
  }
}
