import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.AdminClient;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.KafkaMessageListenerContainer;
import org.springframework.kafka.requestreply.ReplyingKafkaTemplate;
import org.springframework.kafka.support.TopicPartitionOffset;

/**
 * Reports two visits with Spring's ReplyingKafkaTemplate, as it comes, and prints their results. The first reply may
 * arrive on any partition of the reply topic, the second one on partition 1.
 *
 * <p>Arguments: bootstrap address, reply topic, licence plate, code of the center. The workers need the setting
 * VISITOR_WORKER_REPLY_TOPICS with a pattern that matches the reply topic.
 */
public class SpringReply {
  public static void main(String[] arguments) throws Exception {
    String bootstrap = arguments[0], topic = arguments[1], plate = arguments[2], center = arguments[3];
    try (AdminClient admin = AdminClient.create(Map.of("bootstrap.servers", bootstrap))) {
      if (!admin.listTopics().names().get().contains(topic)) {
        admin.createTopics(List.of(new NewTopic(topic, 2, (short) 1))).all().get();
      }
    }
    System.out.println(visit(bootstrap, new ContainerProperties(topic), plate, center));
    System.out.println(visit(bootstrap, new ContainerProperties(new TopicPartitionOffset(topic, 1)), plate, center));
  }

  private static String visit(String bootstrap, ContainerProperties replies, String plate, String center)
      throws Exception {
    replies.setGroupId("spring-reply-" + UUID.randomUUID());
    var consumers =
        new DefaultKafkaConsumerFactory<>(
            Map.of("bootstrap.servers", bootstrap), new StringDeserializer(), new StringDeserializer());
    var producers =
        new DefaultKafkaProducerFactory<>(
            Map.of("bootstrap.servers", bootstrap), new StringSerializer(), new StringSerializer());
    var template =
        new ReplyingKafkaTemplate<>(producers, new KafkaMessageListenerContainer<>(consumers, replies));
    template.setSharedReplyTopic(true);
    template.afterPropertiesSet();
    template.start();
    try {
      template.waitForAssignment(Duration.ofSeconds(30));
      ConsumerRecord<String, String> reply =
          template.sendAndReceive(request(plate, center), Duration.ofSeconds(30)).get(40, TimeUnit.SECONDS);
      return reply.value();
    } finally {
      template.stop();
      template.destroy();
      producers.destroy();
    }
  }

  private static ProducerRecord<String, String> request(String plate, String center) {
    String value =
        "{\"path\":{\"visitType\":\"entry\"},\"body\":{\"licensePlate\":\"" + plate + "\",\"pcCode\":\"" + center + "\"}}";
    var record = new ProducerRecord<>("visitor.visits.requests", plate, value);
    Map.of(
            "ce_specversion", "1.0",
            "ce_id", UUID.randomUUID().toString(),
            "ce_type", "visitor.visits.create",
            "ce_source", "crm/spring")
        .forEach((name, text) -> record.headers().add(name, text.getBytes(StandardCharsets.UTF_8)));
    return record;
  }
}
