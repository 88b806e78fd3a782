// Sends a visit as Avro and reads its result and its change, with Confluent's serializers for JavaScript and KafkaJS.
// Arguments: a licence plate, a center and the time of the visit in microseconds. Prints the status and the two times.
import { randomUUID } from "node:crypto";
import { AvroDeserializer, AvroSerializer, SchemaRegistryClient, SerdeType } from "@confluentinc/schemaregistry";
import { Kafka, logLevel } from "kafkajs";

const REQUESTS = "visitor.visits.requests";
const RESULTS = "visitor.visits.results";
const CHANGES = "visitor.visits.changes.visit";

const [plate, center, visitDate] = process.argv.slice(2);
const requestId = randomUUID();
const registry = new SchemaRegistryClient({
  baseURLs: [process.env.REGISTRY_URL],
  basicAuthCredentials: { credentialsSource: "USER_INFO", userInfo: `any:${process.env.REGISTRY_KEY}` },
});
const serializer = new AvroSerializer(registry, SerdeType.VALUE, {
  autoRegisterSchemas: false,
  useLatestVersion: true,
  subjectNameStrategy: (topic) => `${topic}-visitor.VisitsCreateRequest`,
});
const deserializer = new AvroDeserializer(registry, SerdeType.VALUE, {});
const kafka = new Kafka({ brokers: [process.env.KAFKA_BOOTSTRAP], logLevel: logLevel.ERROR });

const producer = kafka.producer();
await producer.connect();
const visit = {
  path: { visitType: "entry" },
  body: { visitorId: null, barcode: null, licensePlate: plate, pcCode: center, visitDate: Number(visitDate) },
};
await producer.send({
  topic: REQUESTS,
  messages: [
    {
      key: plate,
      value: await serializer.serialize(REQUESTS, visit),
      headers: {
        ce_specversion: "1.0",
        ce_id: requestId,
        ce_type: "visitor.visits.create",
        ce_source: "javascript",
        "content-type": "application/avro",
      },
    },
  ],
});
await producer.disconnect();

const consumer = kafka.consumer({ groupId: requestId });
await consumer.connect();
await consumer.subscribe({ topics: [RESULTS, CHANGES], fromBeginning: true });
const [result, change] = await new Promise((resolve, reject) => {
  let result, change;
  consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error));
  consumer.run({
    eachMessage: async ({ topic, message }) => {
      if (topic === RESULTS && message.headers.ce_id.toString() === requestId) {
        result = await deserializer.deserialize(topic, message.value);
      }
      if (topic === CHANGES) {
        const value = await deserializer.deserialize(topic, message.value);
        change = value.causedBy === requestId ? value : change;
      }
      if (result && change) resolve([result, change]);
    },
  });
});
// A union of several records is decoded with the name of the record.
console.log(JSON.stringify([result.status, result.body["visitor.Visit"].visitDate, change.after.visitDate]));
process.exit(0);
