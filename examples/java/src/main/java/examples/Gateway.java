package examples;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * A parking gateway. It sends a visit for each line of its input: {@code entry <licence plate>} or {@code exit <licence
 * plate>}.
 *
 * <p>A visit waits on disk until the broker has acknowledged it. So no visit is lost while the broker is away or after
 * this program was killed. A visit that is sent twice has the same id both times, and the service stores it once.
 */
public final class Gateway {
    private static final String KAFKA = System.getenv().getOrDefault("KAFKA_BOOTSTRAP", "127.0.0.1:9092");
    private static final String DATABASE = System.getenv().getOrDefault("DATABASE", "gateway.db");
    private static final String TOPIC = "visitor.visits.requests";
    private static final String SOURCE = "gateway/paris-nord-1";
    private static final String CENTER = "FR-SC-4TEMPS";
    private static final ObjectMapper JSON = new ObjectMapper();

    private record Visit(long position, String id, String plate, String value) {}

    private enum Input { VISIT, END }

    private static Connection openBuffer() throws SQLException {
        Connection buffer = DriverManager.getConnection("jdbc:sqlite:" + DATABASE);
        try (var statement = buffer.createStatement()) {
            statement.execute("pragma journal_mode = wal");
            statement.execute("""
                create table if not exists visits
                (position integer primary key autoincrement, id text not null, plate text not null, value text not null)
                """);
        }
        return buffer;
    }

    /** Write each line of the input to the buffer. */
    private static void readInput(BlockingQueue<Input> arrivals) {
        try (Connection buffer = openBuffer();
                var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8))) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String[] words = line.strip().split("\\s+");
                if (words.length != 2 || !List.of("entry", "exit").contains(words[0])) {
                    System.err.println("neither an entry nor an exit: " + line);
                    continue;
                }
                store(buffer, words[0], words[1]);
                arrivals.add(Input.VISIT);
            }
            arrivals.add(Input.END);
        } catch (Exception error) {
            error.printStackTrace();
            System.exit(1);
        }
    }

    private static void store(Connection buffer, String visitType, String plate) throws Exception {
        var body = Map.of("licensePlate", plate, "pcCode", CENTER, "visitDate", Instant.now().toString());
        String value = JSON.writeValueAsString(Map.of("path", Map.of("visitType", visitType), "body", body));
        try (var insert = buffer.prepareStatement("insert into visits (id, plate, value) values (?, ?, ?)")) {
            insert.setString(1, UUID.randomUUID().toString());
            insert.setString(2, plate);
            insert.setString(3, value);
            insert.executeUpdate();
        }
    }

    private static List<Visit> waiting(Connection buffer) throws SQLException {
        var visits = new ArrayList<Visit>();
        try (var select = buffer.createStatement();
                var rows = select.executeQuery("select position, id, plate, value from visits order by position")) {
            while (rows.next()) {
                visits.add(new Visit(rows.getLong(1), rows.getString(2), rows.getString(3), rows.getString(4)));
            }
        }
        return visits;
    }

    /** Send the visits in the buffer, oldest first, and delete each one when the broker has acknowledged it. */
    private static void sendBuffered(Connection buffer, KafkaProducer<String, String> producer) throws Exception {
        for (Visit visit : waiting(buffer)) {
            producer.send(toRecord(visit)).get();
            try (var delete = buffer.prepareStatement("delete from visits where position = ?")) {
                delete.setLong(1, visit.position());
                delete.executeUpdate();
            }
        }
    }

    private static ProducerRecord<String, String> toRecord(Visit visit) {
        // Visits with the same key are applied in order.
        var record = new ProducerRecord<String, String>(TOPIC, visit.plate(), visit.value());
        var headers = Map.of(
                "ce_specversion", "1.0",
                "ce_id", visit.id(), // the idempotency key
                "ce_type", "visitor.visits.create", // the operation
                "ce_source", SOURCE,
                "content-type", "application/json");
        headers.forEach((name, value) -> record.headers().add(name, value.getBytes(StandardCharsets.UTF_8)));
        return record;
    }

    public static void main(String[] args) throws Exception {
        Map<String, Object> settings = Map.of(
                ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, KAFKA,
                ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, StringSerializer.class,
                ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, StringSerializer.class,
                // Retry without a limit. The producer is idempotent by default.
                ProducerConfig.DELIVERY_TIMEOUT_MS_CONFIG, Integer.MAX_VALUE,
                ProducerConfig.MAX_BLOCK_MS_CONFIG, Long.MAX_VALUE);
        var arrivals = new LinkedBlockingQueue<Input>();
        try (Connection buffer = openBuffer();
                var producer = new KafkaProducer<String, String>(settings)) {
            var reader = new Thread(() -> readInput(arrivals), "input");
            reader.setDaemon(true);
            reader.start();
            sendBuffered(buffer, producer); // what an earlier run left
            while (arrivals.take() == Input.VISIT) {
                sendBuffered(buffer, producer);
            }
        }
    }
}
