// A parking gateway. It sends a visit for each line of its input: "entry <licence plate>" or "exit <licence plate>".
//
// A visit waits on disk until the broker has acknowledged it. So no visit is lost while the broker is away or after this
// program was killed. A visit that is sent twice has the same id both times, and the service stores it once.
package main

import (
	"bufio"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"log"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	_ "modernc.org/sqlite"
)

const (
	topic  = "visitor.visits.requests"
	source = "gateway/paris-nord-1"
	center = "FR-SC-4TEMPS"
)

var (
	kafka    = cmp.Or(os.Getenv("KAFKA_BOOTSTRAP"), "127.0.0.1:9092")
	database = cmp.Or(os.Getenv("DATABASE"), "gateway.db")
)

type visit struct {
	position         int64
	id, plate, value string
}

func openBuffer() (*sql.DB, error) {
	buffer, err := sql.Open("sqlite", database)
	if err != nil {
		return nil, err
	}
	buffer.SetMaxOpenConns(1) // the reader of the input and the sender take turns
	_, err = buffer.Exec(`create table if not exists visits
		(position integer primary key autoincrement, id text not null, plate text not null, value text not null)`)
	return buffer, err
}

// store writes a line of the input to the buffer.
func store(buffer *sql.DB, line string) error {
	words := strings.Fields(line)
	if len(words) != 2 || (words[0] != "entry" && words[0] != "exit") {
		log.Printf("neither an entry nor an exit: %s", line)
		return nil
	}
	value, err := json.Marshal(map[string]any{
		"path": map[string]any{"visitType": words[0]},
		"body": map[string]any{"licensePlate": words[1], "pcCode": center, "visitDate": time.Now().UTC()},
	})
	if err != nil {
		return err
	}
	_, err = buffer.Exec("insert into visits (id, plate, value) values (?, ?, ?)",
		uuid.NewString(), words[1], string(value))
	return err
}

func waiting(buffer *sql.DB) ([]visit, error) {
	rows, err := buffer.Query("select position, id, plate, value from visits order by position")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var visits []visit
	for rows.Next() {
		var v visit
		if err := rows.Scan(&v.position, &v.id, &v.plate, &v.value); err != nil {
			return nil, err
		}
		visits = append(visits, v)
	}
	return visits, rows.Err()
}

// sendBuffered sends the visits in the buffer, oldest first, and deletes each one when the broker has acknowledged it.
func sendBuffered(ctx context.Context, buffer *sql.DB, client *kgo.Client) error {
	visits, err := waiting(buffer)
	if err != nil {
		return err
	}
	for _, v := range visits {
		record := &kgo.Record{
			Topic: topic,
			Key:   []byte(v.plate), // visits with the same key are applied in order
			Value: []byte(v.value),
			Headers: []kgo.RecordHeader{
				{Key: "ce_specversion", Value: []byte("1.0")},
				{Key: "ce_id", Value: []byte(v.id)},                      // the idempotency key
				{Key: "ce_type", Value: []byte("visitor.visits.create")}, // the operation
				{Key: "ce_source", Value: []byte(source)},
				{Key: "content-type", Value: []byte("application/json")},
			},
		}
		// By default, the client retries without a limit and with an idempotent producer.
		if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
			return err
		}
		if _, err := buffer.Exec("delete from visits where position = ?", v.position); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context) error {
	buffer, err := openBuffer()
	if err != nil {
		return err
	}
	defer buffer.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(kafka, ",")...))
	if err != nil {
		return err
	}
	defer client.Close()

	arrivals := make(chan struct{}, 1) // holds a value if the buffer may have visits to send
	arrivals <- struct{}{}             // what an earlier run left
	inputErr := make(chan error, 1)
	go func() {
		defer close(arrivals)
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if err := store(buffer, lines.Text()); err != nil {
				inputErr <- err
				return
			}
			select {
			case arrivals <- struct{}{}:
			default:
			}
		}
		inputErr <- lines.Err()
	}()
	for range arrivals {
		if err := sendBuffered(ctx, buffer, client); err != nil {
			return err
		}
	}
	return <-inputErr
}

func main() {
	log.SetFlags(0)
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}
