/*
 * A CRM. It maintains a table of all optins from the topic of their changes.
 *
 * Stop and start it at any time. The group's offsets are committed after the table, so a change may arrive twice: the
 * highest revision wins. To rebuild the table, delete its file and set GROUP to another name.
 */
import { SchemaRegistry } from '@kafkajs/confluent-schema-registry'
import { Kafka, logLevel } from 'kafkajs'
import Database from 'libsql'

const KAFKA = process.env.KAFKA_BOOTSTRAP ?? '127.0.0.1:9092'
const REGISTRY = process.env.REGISTRY_URL ?? 'http://127.0.0.1:8080/registry'
const DATABASE = process.env.DATABASE ?? 'crm.db'
const GROUP = process.env.GROUP ?? 'crm-javascript'
const TOPIC = 'visitor.optins.changes.optin'

const table = new Database(DATABASE)
table.exec(`
  create table if not exists optins (
    optin_id text primary key, revision integer not null, visitor_id text not null, optin_type text not null,
    optin_channel text not null, is_active boolean not null
  )
`)
const upsert = table.prepare(`
  insert into optins values (?, ?, ?, ?, ?, ?)
  on conflict (optin_id) do update set revision = excluded.revision, visitor_id = excluded.visitor_id,
    optin_type = excluded.optin_type, optin_channel = excluded.optin_channel, is_active = excluded.is_active
  where excluded.revision > revision
`)
const remove = table.prepare('delete from optins where optin_id = ?')

// A registry client looks up the schema of each record by its id. So the topic may hold records of several releases.
const registry = new SchemaRegistry({ host: REGISTRY })
const kafka = new Kafka({ clientId: 'crm', brokers: KAFKA.split(','), logLevel: logLevel.ERROR })
const consumer = kafka.consumer({ groupId: GROUP }) // reads committed records only, unless readUncommitted is true

/** The change of a record; null if it is a tombstone: the optin was deleted, or its visitor was erased. */
const decode = (message) => message.value && registry.decode(message.value)

const applyAll = table.transaction((messages, changes) => {
  messages.forEach((message, index) => {
    const optinId = message.key.toString()
    const change = changes[index]
    const optin = change?.after
    if (!optin) return remove.run(optinId)
    const { visitorId, optinType, optinChannel, isActive } = optin
    upsert.run(optinId, change.revision, visitorId, optinType, optinChannel, Number(isActive))
  })
})

async function eachBatch ({ batch: { messages } }) {
  applyAll(messages, await Promise.all(messages.map(decode)))
  if (messages.length > 0) console.log(`applied ${messages.length} changes`)
}

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => consumer.disconnect())
await consumer.connect()
await consumer.subscribe({ topic: TOPIC, fromBeginning: true })
await consumer.run({ eachBatch })
