/*
 * A parking gateway. It sends a visit for each line of its input: `entry <licence plate>` or `exit <licence plate>`.
 *
 * A visit waits on disk until the broker has acknowledged it. So no visit is lost while the broker is away or after this
 * program was killed. A visit that is sent twice has the same id both times, and the service stores it once.
 */
import { randomUUID } from 'node:crypto'
import { createInterface } from 'node:readline'
import Database from 'libsql'
import { Kafka, logLevel } from 'kafkajs'

const KAFKA = process.env.KAFKA_BOOTSTRAP ?? '127.0.0.1:9092'
const DATABASE = process.env.DATABASE ?? 'gateway.db'
const TOPIC = 'visitor.visits.requests'
const SOURCE = 'gateway/paris-nord-1'
const CENTER = 'FR-SC-4TEMPS'

const buffer = new Database(DATABASE)
buffer.exec(`
  create table if not exists visits
  (position integer primary key autoincrement, id text not null, plate text not null, value text not null)
`)
const insert = buffer.prepare('insert into visits (id, plate, value) values (?, ?, ?)')
const selectAll = buffer.prepare('select position, id, plate, value from visits order by position')
const remove = buffer.prepare('delete from visits where position = ?')

const kafka = new Kafka({
  clientId: 'gateway',
  brokers: KAFKA.split(','),
  logLevel: logLevel.ERROR,
  retry: { retries: Number.MAX_SAFE_INTEGER, maxRetryTime: 5_000 } // without a limit, every 5 seconds
})
const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })

/** Write a line of the input to the buffer. */
function store (line) {
  const [visitType, plate, ...rest] = line.trim().split(/\s+/)
  if (!['entry', 'exit'].includes(visitType) || !plate || rest.length > 0) {
    console.error(`neither an entry nor an exit: ${line}`)
    return
  }
  const body = { licensePlate: plate, pcCode: CENTER, visitDate: new Date().toISOString() }
  insert.run(randomUUID(), plate, JSON.stringify({ path: { visitType }, body }))
}

/** Send the visits in the buffer, oldest first, and delete each one when the broker has acknowledged it. */
async function sendBuffered () {
  for (const { position, id, plate, value } of selectAll.all()) {
    const headers = {
      ce_specversion: '1.0',
      ce_id: id, // the idempotency key
      ce_type: 'visitor.visits.create', // the operation
      ce_source: SOURCE,
      'content-type': 'application/json'
    }
    // Visits with the same key are applied in order.
    await producer.send({ topic: TOPIC, acks: -1, messages: [{ key: plate, value, headers }] })
    remove.run(position)
  }
}

let sending = producer.connect().then(sendBuffered) // what an earlier run left
for await (const line of createInterface({ input: process.stdin })) {
  store(line)
  sending = sending.then(sendBuffered)
}
await sending
await producer.disconnect()
