// Sends a visit as Avro and reads its result and its change, with franz-go and Confluent's serializers for Go.
// Arguments: a licence plate, a center and the time of the visit in microseconds. Prints the status and the two times.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/schemaregistry"
	"github.com/confluentinc/confluent-kafka-go/v2/schemaregistry/serde"
	"github.com/confluentinc/confluent-kafka-go/v2/schemaregistry/serde/avrov2"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	requests = "visitor.visits.requests"
	results  = "visitor.visits.results"
	changes  = "visitor.visits.changes.visit"
)

type path struct {
	VisitType string `avro:"visitType"`
}

type visit struct {
	VisitorID    *string    `avro:"visitorId"`
	Barcode      *string    `avro:"barcode"`
	LicensePlate *string    `avro:"licensePlate"`
	PcCode       string     `avro:"pcCode"`
	VisitDate    *time.Time `avro:"visitDate"`
}

type request struct {
	Path path  `avro:"path"`
	Body visit `avro:"body"`
}

type recorded struct {
	VisitDate time.Time `avro:"visitDate"`
}

type result struct {
	Status int            `avro:"status"`
	Body   map[string]any `avro:"body"` // by the name of the record, since the union has several records
}

type change struct {
	CausedBy string    `avro:"causedBy"`
	After    *recorded `avro:"after"`
}

func main() {
	log.SetFlags(0)
	plate, center := os.Args[1], os.Args[2]
	micros, err := strconv.ParseInt(os.Args[3], 10, 64)
	check(err)
	date := time.UnixMicro(micros)
	requestID := rand.Text()

	registry, err := schemaregistry.NewClient(schemaregistry.NewConfigWithBasicAuthentication(
		os.Getenv("REGISTRY_URL"), "any", os.Getenv("REGISTRY_KEY")))
	check(err)
	options := avrov2.NewSerializerConfig()
	options.AutoRegisterSchemas = false
	options.UseLatestVersion = true
	serializer, err := avrov2.NewSerializer(registry, serde.ValueSerde, options)
	check(err)
	serializer.SubjectNameStrategy = func(topic string, _ serde.Type, _ schemaregistry.SchemaInfo) (string, error) {
		return topic + "-visitor.VisitsCreateRequest", nil
	}
	deserializer, err := avrov2.NewDeserializer(registry, serde.ValueSerde, avrov2.NewDeserializerConfig())
	check(err)
	client, err := kgo.NewClient(
		kgo.SeedBrokers(os.Getenv("KAFKA_BOOTSTRAP")),
		kgo.ConsumeTopics(results, changes),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
	)
	check(err)
	defer client.Close()

	value, err := serializer.Serialize(requests, &request{
		Path: path{VisitType: "entry"},
		Body: visit{LicensePlate: &plate, PcCode: center, VisitDate: &date},
	})
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	check(client.ProduceSync(ctx, &kgo.Record{
		Topic: requests,
		Key:   []byte(plate),
		Value: value,
		Headers: []kgo.RecordHeader{
			{Key: "ce_specversion", Value: []byte("1.0")},
			{Key: "ce_id", Value: []byte(requestID)},
			{Key: "ce_type", Value: []byte("visitor.visits.create")},
			{Key: "ce_source", Value: []byte("go")},
			{Key: "content-type", Value: []byte("application/avro")},
		},
	}).FirstErr())

	var answer *result
	var event *change
	for answer == nil || event == nil {
		fetches := client.PollFetches(ctx)
		check(fetches.Err())
		fetches.EachRecord(func(record *kgo.Record) {
			switch {
			case record.Topic == results && header(record, "ce_id") == requestID:
				answer = new(result)
				check(deserializer.DeserializeInto(results, record.Value, answer))
			case record.Topic == changes:
				value := new(change)
				check(deserializer.DeserializeInto(changes, record.Value, value))
				if value.CausedBy == requestID {
					event = value
				}
			}
		})
	}
	visitDate := answer.Body["visitor.Visit"].(map[string]any)["visitDate"].(time.Time)
	fmt.Printf("[%d, %d, %d]\n", answer.Status, visitDate.UnixMicro(), event.After.VisitDate.UnixMicro())
}

func header(record *kgo.Record, name string) string {
	for _, header := range record.Headers {
		if header.Key == name {
			return string(header.Value)
		}
	}
	return ""
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
