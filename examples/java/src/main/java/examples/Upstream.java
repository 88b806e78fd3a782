package examples;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.apicurio.registry.serde.avro.AvroKafkaDeserializer;
import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.generic.GenericRecordBuilder;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * An upstream system. It registers a visitor with a consent, and waits for the result.
 *
 * <p>The request is Avro, with the schema from the registry. If no result arrives in time, the program sends the same
 * request again. A request that is sent twice has the same id both times; the service applies it once and repeats its
 * result.
 */
public final class Upstream {
    private static final String KAFKA = System.getenv().getOrDefault("KAFKA_BOOTSTRAP", "127.0.0.1:9092");
    private static final String REGISTRY =
            System.getenv().getOrDefault("REGISTRY_URL", "http://127.0.0.1:8080/registry");
    private static final String REQUESTS = "visitor.visitors.requests";
    private static final String RESULTS = "visitor.visitors.results";
    private static final String OPERATION = "visitors.createPartial";
    private static final String RECORD = "visitor.VisitorsCreatePartialRequest";
    private static final String SOURCE = "upstream/loyalty-eu";
    private static final int ATTEMPTS = 3;
    private static final Duration PER_ATTEMPT = Duration.ofSeconds(20);

    private record RegisteredSchema(int id, Schema schema) {}

    private static RegisteredSchema latestSchema(String subject) throws Exception {
        var url = URI.create(REGISTRY + "/subjects/" + subject + "/versions/latest");
        var response = HttpClient.newHttpClient()
                .send(HttpRequest.newBuilder(url).build(), HttpResponse.BodyHandlers.ofString());
        if (response.statusCode() != 200) {
            throw new IllegalStateException(url + ": " + response.body());
        }
        JsonNode version = new ObjectMapper().readTree(response.body());
        return new RegisteredSchema(
                version.get("id").asInt(), new Schema.Parser().parse(version.get("schema").asText()));
    }

    private static GenericRecord request(Schema schema, String email) {
        Schema body = schema.getField("body").schema();
        Schema optin = body.getField("optins").schema().getElementType();
        return new GenericRecordBuilder(schema)
                .set("body", new GenericRecordBuilder(body)
                        .set("firstName", "Ada")
                        .set("email", email)
                        .set("countryCode", "FR")
                        .set("preferredCenter", "FR-SC-4TEMPS")
                        .set("optins", List.of(new GenericRecordBuilder(optin)
                                .set("optinType", "commercial")
                                .set("optinChannel", "email")
                                .set("isActive", true)
                                .build()))
                        .build())
                .build();
    }

    /** Confluent's wire format: a zero byte, the schema id in 4 bytes, the Avro binary encoding. */
    private static byte[] encode(int schemaId, GenericRecord record) throws Exception {
        var out = new ByteArrayOutputStream();
        var header = new DataOutputStream(out);
        header.writeByte(0);
        header.writeInt(schemaId);
        var encoder = EncoderFactory.get().directBinaryEncoder(out, null);
        new GenericDatumWriter<GenericRecord>(record.getSchema()).write(record, encoder);
        return out.toByteArray();
    }

    private static GenericRecord decode(byte[] value) {
        try (var deserializer = new AvroKafkaDeserializer<GenericRecord>()) {
            deserializer.configure(
                    Map.of(
                            "apicurio.registry.url", REGISTRY,
                            "apicurio.registry.as-confluent", true,
                            "apicurio.registry.use-id", "contentId"),
                    false);
            return deserializer.deserialize(RESULTS, value);
        }
    }

    /**
     * A consumer of the results that arrive from now on. It has no consumer group: each upstream reads all partitions
     * and ignores the results of others.
     */
    private static KafkaConsumer<byte[], byte[]> resultsConsumer() {
        Map<String, Object> settings = Map.of(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, KAFKA);
        var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        List<TopicPartition> partitions = consumer.partitionsFor(RESULTS).stream()
                .map(partition -> new TopicPartition(RESULTS, partition.partition()))
                .toList();
        consumer.assign(partitions);
        consumer.endOffsets(partitions).forEach(consumer::seek);
        return consumer;
    }

    private static boolean hasHeader(ConsumerRecord<?, ?> record, String name, String value) {
        var header = record.headers().lastHeader(name);
        return header != null && value.equals(new String(header.value(), StandardCharsets.UTF_8));
    }

    private static Optional<byte[]> await(KafkaConsumer<byte[], byte[]> consumer, String requestId) {
        var deadline = Instant.now().plus(PER_ATTEMPT);
        while (Instant.now().isBefore(deadline)) {
            for (var record : consumer.poll(Duration.ofSeconds(1))) {
                if (hasHeader(record, "ce_id", requestId) && hasHeader(record, "ce_requestsource", SOURCE)) {
                    return Optional.of(record.value());
                }
            }
        }
        return Optional.empty();
    }

    /** Send the request until its result arrives. */
    private static GenericRecord requestReply(ProducerRecord<String, byte[]> request, String requestId)
            throws Exception {
        Map<String, Object> settings = Map.of(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, KAFKA);
        try (var consumer = resultsConsumer();
                var producer = new KafkaProducer<>(settings, new StringSerializer(), new ByteArraySerializer())) {
            for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
                producer.send(request).get();
                var result = await(consumer, requestId);
                if (result.isPresent()) {
                    return decode(result.get());
                }
            }
        }
        throw new IllegalStateException("no result of request " + requestId);
    }

    public static void main(String[] args) throws Exception {
        String requestId = UUID.randomUUID().toString();
        String email = "ada-" + requestId + "@example.com";
        RegisteredSchema latest = latestSchema(REQUESTS + "-" + RECORD);
        byte[] value = encode(latest.id(), request(latest.schema(), email));
        var request = new ProducerRecord<>(REQUESTS, email, value);
        var headers = Map.of(
                "ce_specversion", "1.0",
                "ce_id", requestId, // the idempotency key
                "ce_type", "visitor." + OPERATION,
                "ce_source", SOURCE,
                "content-type", "application/avro");
        headers.forEach((name, text) -> request.headers().add(name, text.getBytes(StandardCharsets.UTF_8)));

        GenericRecord result = requestReply(request, requestId);
        var body = (GenericRecord) result.get("body");
        if ((int) result.get("status") != 201) {
            System.err.println(result.get("status") + ": " + body.get("errors"));
            System.exit(1);
        }
        System.out.println("created visitor " + ((GenericRecord) body.get("data")).get("visitorId"));
    }
}
