package broker_test

import (
	"context"
	"fmt"

	"github.com/countermand/countermand/platform/broker"
)

func ExampleCommitter() {
	committer := broker.NewCommitter(&slowPublisher{}, 0)
	defer committer.Close()

	receipt, err := committer.Publish(context.Background(), broker.Message{Topic: "shop.orders.commands", PublishID: "order-1"})
	fmt.Println(receipt.Offset, receipt.Duplicate, err)

	receipt, err = committer.Publish(context.Background(), broker.Message{Topic: "shop.orders.commands", PublishID: "order-1"})
	fmt.Println(receipt.Offset, receipt.Duplicate, err)
	// Output:
	// 1 false <nil>
	// 1 true <nil>
}
