// An upstream system. It registers a visitor with a consent, and waits for the result.
//
// The request is Avro, with the schema from the registry. If no result arrives in time, the program sends the same
// request again. A request that is sent twice has the same id both times; the service applies it once and repeats its
// result.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
)

const (
	requests   = "visitor.visitors.requests"
	results    = "visitor.visitors.results"
	operation  = "visitors.createPartial"
	recordName = "visitor.VisitorsCreatePartialRequest"
	source     = "upstream/loyalty-eu"
	attempts   = 3
	perAttempt = 20 * time.Second
)

var (
	kafka    = cmp.Or(os.Getenv("KAFKA_BOOTSTRAP"), "127.0.0.1:9092")
	registry = cmp.Or(os.Getenv("REGISTRY_URL"), "http://127.0.0.1:8080/registry")
	wire     sr.ConfluentHeader // a zero byte and the schema id in 4 bytes
)

type result struct {
	Status int            `avro:"status"`
	Body   map[string]any `avro:"body"`
}

func encode(ctx context.Context, schemas *sr.Client, request any) ([]byte, error) {
	latest, err := schemas.SchemaByVersion(ctx, requests+"-"+recordName, -1)
	if err != nil {
		return nil, err
	}
	schema, err := avro.Parse(latest.Schema.Schema)
	if err != nil {
		return nil, err
	}
	value, err := wire.AppendEncode(nil, latest.ID, nil)
	if err != nil {
		return nil, err
	}
	return schema.AppendEncode(value, request)
}

func decode(ctx context.Context, schemas *sr.Client, value []byte) (result, error) {
	var decoded result
	id, data, err := wire.DecodeID(value)
	if err != nil {
		return decoded, err
	}
	writer, err := schemas.SchemaByID(ctx, id)
	if err != nil {
		return decoded, err
	}
	schema, err := avro.Parse(writer.Schema)
	if err != nil {
		return decoded, err
	}
	_, err = schema.Decode(data, &decoded)
	return decoded, err
}

// newClient returns a client that consumes the results that arrive from now on. It has no consumer group: each upstream
// reads all partitions and ignores the results of others.
func newClient(ctx context.Context) (*kgo.Client, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(kafka, ",")...))
	if err != nil {
		return nil, err
	}
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, results)
	if err = cmp.Or(err, ends.Error()); err != nil {
		return nil, err
	}
	client.AddConsumePartitions(ends.KOffsets())
	return client, nil
}

// await returns the value of the result, and an error when the context ends.
func await(ctx context.Context, client *kgo.Client, requestID string) ([]byte, error) {
	for {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, err
		}
		for record := range fetches.RecordsAll() {
			headers := map[string]string{}
			for _, header := range record.Headers {
				headers[header.Key] = string(header.Value)
			}
			if headers["ce_id"] == requestID && headers["ce_requestsource"] == source {
				return record.Value, nil
			}
		}
	}
}

// requestReply sends the request until its result arrives.
func requestReply(ctx context.Context, client *kgo.Client, request *kgo.Record, requestID string) ([]byte, error) {
	for range attempts {
		if err := client.ProduceSync(ctx, request).FirstErr(); err != nil {
			return nil, err
		}
		attempt, cancel := context.WithTimeout(ctx, perAttempt)
		value, err := await(attempt, client, requestID)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			return value, err
		}
	}
	return nil, fmt.Errorf("no result of request %s", requestID)
}

func run(ctx context.Context) error {
	schemas, err := sr.NewClient(sr.URLs(registry))
	if err != nil {
		return err
	}
	requestID := uuid.NewString()
	email := fmt.Sprintf("ada-%s@example.com", requestID)
	value, err := encode(ctx, schemas, map[string]any{"body": map[string]any{
		"firstName":       "Ada",
		"email":           email,
		"countryCode":     "FR",
		"preferredCenter": "FR-SC-4TEMPS",
		"optins": []any{
			map[string]any{"optinType": "commercial", "optinChannel": "email", "isActive": true},
		},
	}})
	if err != nil {
		return err
	}
	client, err := newClient(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	reply, err := requestReply(ctx, client, &kgo.Record{
		Topic: requests,
		Key:   []byte(email),
		Value: value,
		Headers: []kgo.RecordHeader{
			{Key: "ce_specversion", Value: []byte("1.0")},
			{Key: "ce_id", Value: []byte(requestID)}, // the idempotency key
			{Key: "ce_type", Value: []byte("visitor." + operation)},
			{Key: "ce_source", Value: []byte(source)},
			{Key: "content-type", Value: []byte("application/avro")},
		},
	}, requestID)
	if err != nil {
		return err
	}
	decoded, err := decode(ctx, schemas, reply)
	if err != nil {
		return err
	}
	if decoded.Status != 201 {
		return fmt.Errorf("%d: %v", decoded.Status, decoded.Body["errors"])
	}
	fmt.Println("created visitor", decoded.Body["data"].(map[string]any)["visitorId"])
	return nil
}

func main() {
	log.SetFlags(0)
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
