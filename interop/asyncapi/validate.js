// Parses an AsyncAPI document with the official parser. Prints what the parser counts, and the errors that it finds.
import { readFileSync } from 'node:fs'
import { AvroSchemaParser } from '@asyncapi/avro-schema-parser'
import { Parser } from '@asyncapi/parser'

const INFORMATION = 2 // such as the hint that AsyncAPI has a newer version

const parser = new Parser()
parser.registerSchemaParser(AvroSchemaParser())
const { document, diagnostics } = await parser.parse(readFileSync(process.argv[2], 'utf8'))
const errors = diagnostics
  .filter(({ severity }) => severity < INFORMATION)
  .map(({ code, message, path }) => `${code} at ${path.join('/')}: ${message}`)
console.log(
  JSON.stringify({
    channels: document?.channels().length,
    operations: document?.operations().length,
    messages: document?.components().messages().length,
    errors: errors.slice(0, 20),
  }),
)
