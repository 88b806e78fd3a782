/*
 * An upstream system. It registers a visitor with a consent, and waits for the result.
 *
 * The request is Avro, with the schema from the registry. If no result arrives in time, the program sends the same
 * request again. A request that is sent twice has the same id both times; the service applies it once and repeats its
 * result.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import { SchemaRegistry } from '@kafkajs/confluent-schema-registry'
import { Kafka, logLevel } from 'kafkajs'

const KAFKA = process.env.KAFKA_BOOTSTRAP ?? '127.0.0.1:9092'
const REGISTRY = process.env.REGISTRY_URL ?? 'http://127.0.0.1:8080/registry'
const REQUESTS = 'visitor.visitors.requests'
const RESULTS = 'visitor.visitors.results'
const OPERATION = 'visitors.createPartial'
const RECORD = 'visitor.VisitorsCreatePartialRequest'
const SOURCE = 'upstream/loyalty-eu'
const ATTEMPTS = 3
const MILLISECONDS_PER_ATTEMPT = 20_000

const registry = new SchemaRegistry({ host: REGISTRY })
const kafka = new Kafka({ clientId: 'upstream', brokers: KAFKA.split(','), logLevel: logLevel.ERROR })
const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
// The group is for this process only: each upstream reads all partitions, ignores the results of others, commits nothing.
const consumer = kafka.consumer({ groupId: `upstream-${randomUUID()}` })

async function encode (request) {
  const schemaId = await registry.getLatestSchemaId(`${REQUESTS}-${RECORD}`)
  return registry.encode(schemaId, request)
}

async function endOffsets (topic) {
  const admin = kafka.admin()
  await admin.connect()
  const offsets = await admin.fetchTopicOffsets(topic)
  await admin.disconnect()
  return offsets.map(({ partition, high }) => ({ topic, partition, offset: high }))
}

/** Consume the results that arrive from now on. `onResult` gets the value of the result of this request. */
async function consumeResults (requestId, onResult) {
  const ends = await endOffsets(RESULTS)
  await consumer.connect()
  await consumer.subscribe({ topic: RESULTS })
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ message: { headers, value } }) => {
      if (String(headers.ce_id) === requestId && String(headers.ce_requestsource) === SOURCE) onResult(value)
    }
  })
  for (const end of ends) consumer.seek(end)
}

/** Send the request until its result arrives. */
async function requestReply (message, requestId) {
  let onResult
  const result = new Promise((resolve) => { onResult = resolve })
  await consumeResults(requestId, onResult)
  await producer.connect()
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    await producer.send({ topic: REQUESTS, acks: -1, messages: [message] })
    const value = await Promise.race([result, setTimeout(MILLISECONDS_PER_ATTEMPT, null, { ref: false })])
    if (value) return registry.decode(value)
  }
  throw new Error(`no result of request ${requestId}`)
}

const requestId = randomUUID()
const email = `ada-${requestId}@example.com`
const value = await encode({
  body: {
    firstName: 'Ada',
    email,
    countryCode: 'FR',
    preferredCenter: 'FR-SC-4TEMPS',
    optins: [{ optinType: 'commercial', optinChannel: 'email', isActive: true }]
  }
})
const headers = {
  ce_specversion: '1.0',
  ce_id: requestId, // the idempotency key
  ce_type: `visitor.${OPERATION}`,
  ce_source: SOURCE,
  'content-type': 'application/avro'
}
const { status, body } = await requestReply({ key: email, value, headers }, requestId)
const [content] = Object.values(body) // the body is a union of records: {"<name of the record>": {…}}
if (status === 201) {
  console.log('created visitor', content.data.visitorId)
} else {
  console.error(status, content.errors)
  process.exitCode = 1
}
await Promise.all([producer.disconnect(), consumer.disconnect()])
