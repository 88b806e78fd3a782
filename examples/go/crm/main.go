// A CRM. It maintains a table of all optins from the topic of their changes.
//
// Stop and start it at any time. The group's offsets are committed after the table, so a change may arrive twice: the
// highest revision wins. To rebuild the table, delete its file and set GROUP to another name.
package main

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	_ "modernc.org/sqlite"
)

const (
	topic       = "visitor.optins.changes.optin"
	createTable = `
		create table if not exists optins (
			optin_id text primary key, revision integer not null, visitor_id text not null, optin_type text not null,
			optin_channel text not null, is_active boolean not null
		)`
	upsert = `
		insert into optins values (?, ?, ?, ?, ?, ?)
		on conflict (optin_id) do update set revision = excluded.revision, visitor_id = excluded.visitor_id,
			optin_type = excluded.optin_type, optin_channel = excluded.optin_channel, is_active = excluded.is_active
		where excluded.revision > revision`
)

var (
	kafka    = cmp.Or(os.Getenv("KAFKA_BOOTSTRAP"), "127.0.0.1:9092")
	registry = cmp.Or(os.Getenv("REGISTRY_URL"), "http://127.0.0.1:8080/registry")
	database = cmp.Or(os.Getenv("DATABASE"), "crm.db")
	group    = cmp.Or(os.Getenv("GROUP"), "crm-go")
)

type change struct {
	Revision int64  `avro:"revision"`
	After    *optin `avro:"after"`
}

type optin struct {
	VisitorID    string `avro:"visitorId"`
	OptinType    string `avro:"optinType"`
	OptinChannel string `avro:"optinChannel"`
	IsActive     bool   `avro:"isActive"`
}

// readerSchema has the fields of a change that this program needs.
var readerSchema = avro.MustParse(`{
	"type": "record", "name": "OptinChange", "namespace": "visitor", "fields": [
		{"name": "revision", "type": "long"},
		{"name": "after", "type": ["null", {
			"type": "record", "name": "Optin", "fields": [
				{"name": "visitorId", "type": "string"},
				{"name": "optinType", "type": "string"},
				{"name": "optinChannel", "type": "string"},
				{"name": "isActive", "type": "boolean"}
			]
		}]}
	]
}`)

// deserializer looks up the schema of each record by its id, so the topic may hold records of several releases.
type deserializer struct {
	client *sr.Client
	byID   map[int]*avro.Schema
}

func (d *deserializer) schema(ctx context.Context, id int) (*avro.Schema, error) {
	if schema, ok := d.byID[id]; ok {
		return schema, nil
	}
	registered, err := d.client.SchemaByID(ctx, id)
	if err != nil {
		return nil, err
	}
	writerSchema, err := avro.Parse(registered.Schema)
	if err != nil {
		return nil, err
	}
	d.byID[id], err = avro.Resolve(writerSchema, readerSchema)
	return d.byID[id], err
}

// decode returns an empty change for a tombstone: the optin was deleted, or its visitor was erased.
func (d *deserializer) decode(ctx context.Context, value []byte) (change, error) {
	var decoded change
	if value == nil {
		return decoded, nil
	}
	id, data, err := new(sr.ConfluentHeader).DecodeID(value)
	if err != nil {
		return decoded, err
	}
	schema, err := d.schema(ctx, id)
	if err != nil {
		return decoded, err
	}
	_, err = schema.Decode(data, &decoded)
	return decoded, err
}

func apply(tx *sql.Tx, optinID string, c change) error {
	if c.After == nil {
		_, err := tx.Exec("delete from optins where optin_id = ?", optinID)
		return err
	}
	o := c.After
	_, err := tx.Exec(upsert, optinID, c.Revision, o.VisitorID, o.OptinType, o.OptinChannel, o.IsActive)
	return err
}

// applyAll applies the records in one transaction.
func applyAll(ctx context.Context, table *sql.DB, schemas *deserializer, fetches kgo.Fetches) error {
	tx, err := table.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for record := range fetches.RecordsAll() {
		decoded, err := schemas.decode(ctx, record.Value)
		if err != nil {
			return err
		}
		if err := apply(tx, string(record.Key), decoded); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func run(ctx context.Context) error {
	client, err := sr.NewClient(sr.URLs(registry))
	if err != nil {
		return err
	}
	schemas := &deserializer{client, map[int]*avro.Schema{}}
	table, err := sql.Open("sqlite", database)
	if err != nil {
		return err
	}
	defer table.Close()
	if _, err := table.Exec(createTable); err != nil {
		return err
	}
	consumer, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(kafka, ",")...),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	if err != nil {
		return err
	}
	defer consumer.Close()
	for {
		fetches := consumer.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil // interrupted
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		if err := applyAll(ctx, table, schemas, fetches); err != nil {
			return err
		}
		if err := consumer.CommitUncommittedOffsets(ctx); err != nil {
			return err
		}
		fmt.Println("applied", fetches.NumRecords(), "changes")
	}
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}
