package examples;

import io.apicurio.registry.serde.avro.AvroKafkaDeserializer;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * A CRM. It maintains a table of all optins from the topic of their changes.
 *
 * <p>Stop and start it at any time. The group's offsets are committed after the table, so a change may arrive twice:
 * the highest revision wins. To rebuild the table, delete its file and set GROUP to another name.
 */
public final class Crm {
    private static final String KAFKA = System.getenv().getOrDefault("KAFKA_BOOTSTRAP", "127.0.0.1:9092");
    private static final String REGISTRY =
            System.getenv().getOrDefault("REGISTRY_URL", "http://127.0.0.1:8080/registry");
    private static final String DATABASE = System.getenv().getOrDefault("DATABASE", "crm.db");
    private static final String GROUP = System.getenv().getOrDefault("GROUP", "crm-java");
    private static final String TOPIC = "visitor.optins.changes.optin";
    /** How long the end may take if a server does not answer. The changes that were not committed arrive again. */
    private static final Duration STOP_LIMIT = Duration.ofSeconds(20);

    private static final String CREATE = """
            create table if not exists optins (
                optin_id text primary key, revision integer not null, visitor_id text not null, optin_type text not null,
                optin_channel text not null, is_active boolean not null
            )
            """;
    private static final String UPSERT = """
            insert into optins values (?, ?, ?, ?, ?, ?)
            on conflict (optin_id) do update set revision = excluded.revision, visitor_id = excluded.visitor_id,
                optin_type = excluded.optin_type, optin_channel = excluded.optin_channel, is_active = excluded.is_active
            where excluded.revision > revision
            """;

    private static KafkaConsumer<String, GenericRecord> consumer() {
        Map<String, Object> settings = new HashMap<>();
        settings.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, KAFKA);
        settings.put(ConsumerConfig.GROUP_ID_CONFIG, GROUP);
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        settings.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        settings.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        settings.put(ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, StringDeserializer.class);
        // A deserializer looks up the schema of each record by its id, so the topic may hold records of several releases.
        settings.put(ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, AvroKafkaDeserializer.class);
        settings.put("apicurio.registry.url", REGISTRY);
        settings.put("apicurio.registry.as-confluent", true); // the wire format with a zero byte and a 4-byte id
        settings.put("apicurio.registry.use-id", "contentId");
        return new KafkaConsumer<>(settings);
    }

    /** {@code change} is null if the record is a tombstone: the optin was deleted, or its visitor was erased. */
    private static void apply(Connection table, String optinId, GenericRecord change) throws SQLException {
        var optin = change == null ? null : (GenericRecord) change.get("after");
        if (optin == null) {
            try (var delete = table.prepareStatement("delete from optins where optin_id = ?")) {
                delete.setString(1, optinId);
                delete.executeUpdate();
            }
            return;
        }
        try (var upsert = table.prepareStatement(UPSERT)) {
            upsert.setString(1, optinId);
            upsert.setLong(2, (long) change.get("revision"));
            upsert.setString(3, optin.get("visitorId").toString());
            upsert.setString(4, optin.get("optinType").toString());
            upsert.setString(5, optin.get("optinChannel").toString());
            upsert.setBoolean(6, (boolean) optin.get("isActive"));
            upsert.executeUpdate();
        }
    }

    private static void applyAll(Connection table, ConsumerRecords<String, GenericRecord> records)
            throws SQLException {
        for (var record : records) {
            apply(table, record.key(), record.value());
        }
        table.commit();
    }

    public static void main(String[] args) throws Exception {
        var consumer = consumer();
        var mainThread = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                mainThread.join(STOP_LIMIT.toMillis()); // the main thread leaves the group
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }));
        try (consumer;
                Connection table = DriverManager.getConnection("jdbc:sqlite:" + DATABASE)) {
            table.createStatement().execute(CREATE);
            table.setAutoCommit(false);
            consumer.subscribe(List.of(TOPIC));
            while (true) {
                var records = consumer.poll(Duration.ofSeconds(1));
                if (records.isEmpty()) {
                    continue;
                }
                applyAll(table, records);
                consumer.commitSync();
                System.out.println("applied " + records.count() + " changes");
            }
        } catch (WakeupException interrupted) {
            // The shutdown hook waits for the end of this method.
        }
    }
}
