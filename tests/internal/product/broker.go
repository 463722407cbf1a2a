package product

import (
	"fmt"
	"hash/fnv"
	"os"
	"slices"
)

// brokerFor returns the environment that has a dev process use the Kafka that
// COUNTERMAND_TEST_KAFKA_BROKERS names, if it does. A data folder has topics of
// its own, as it has a broker of its own otherwise.
func brokerFor(args []string) []string {
	servers := os.Getenv("COUNTERMAND_TEST_KAFKA_BROKERS")
	if servers == "" || len(args) == 0 || args[0] != "dev" {
		return nil
	}
	folder := fnv.New64a()
	if at := slices.Index(args, "--data-dir"); at >= 0 && at+1 < len(args) {
		_, _ = folder.Write([]byte(args[at+1])) // never fails
	}
	return []string{"COUNTERMAND_BROKER=kafka", "KAFKA_BROKERS=" + servers, fmt.Sprintf("KAFKA_TOPIC_PREFIX=e%x.", folder.Sum64())}
}
