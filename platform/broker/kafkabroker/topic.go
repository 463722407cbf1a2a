package kafkabroker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/countermand/countermand/events"
	"github.com/countermand/countermand/platform/broker"
)

// Settings of a topic that decide whether it keeps what it was given.
const (
	settingCleanup   = "cleanup.policy"
	settingAge       = "retention.ms"
	settingBytes     = "retention.bytes"
	settingInSync    = "min.insync.replicas"
	settingUnclean   = "unclean.leader.election.enable"
	settingBatchSize = "max.message.bytes"
)

// ensureTimeout is how long a busy cluster may take to make topics: as long as Kafka's
// own clients wait for what an administrator asks for (default.api.timeout.ms).
const ensureTimeout = time.Minute

// Ensure implements [broker.Broker]. A topic that exists keeps its own settings;
// it must have our partitions and lose nothing: enough replicas, no ack by fewer
// than [Config.MinInSync] of them, no leader that lacks acked messages, nothing
// deleted before [Config.MaxAge] or to save space, and batches of our size.
//
// It waits for a cluster that is slow to answer or to make topics, for a minute or
// until ctx ends.
func (b *Broker) Ensure(ctx context.Context, topics ...events.Topic) error {
	var errs []error
	for _, topic := range topics {
		errs = append(errs, topic.Validate())
	}
	if err := errors.Join(errs...); err != nil || len(topics) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	topics = slices.Compact(slices.Sorted(slices.Values(topics)))
	infos, err := patiently(ctx, b, func(ctx context.Context) ([]topicInfo, error) { return b.describe(ctx, topics...) })
	if err != nil {
		return fmt.Errorf("ensure topics: %w", classify(err))
	}
	var missing []events.Topic
	for i, info := range infos {
		switch {
		case errors.Is(info.err, kafka.UnknownTopicOrPartition):
			missing = append(missing, topics[i])
		case info.err != nil && !errors.Is(info.err, kafka.LeaderNotAvailable):
			errs = append(errs, fmt.Errorf("topic %s: %w", topics[i], classify(info.err)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if len(missing) > 0 {
		if err := b.create(ctx, missing); err != nil {
			return err
		}
	}
	infos, err = b.settle(ctx, topics)
	if err != nil {
		return fmt.Errorf("ensure topics: %w", classify(err))
	}
	return b.inspect(ctx, infos)
}

// create makes topics. One that somebody else makes at the same time is fine.
func (b *Broker) create(ctx context.Context, topics []events.Topic) error {
	configs := make([]kafka.TopicConfig, len(topics))
	for i, topic := range topics {
		configs[i] = kafka.TopicConfig{
			Topic: b.name(topic), NumPartitions: b.config.Partitions, ReplicationFactor: b.config.Replicas,
			ConfigEntries: []kafka.ConfigEntry{
				{ConfigName: settingCleanup, ConfigValue: "delete"},
				{ConfigName: settingAge, ConfigValue: strconv.FormatInt(b.config.MaxAge.Milliseconds(), 10)},
				{ConfigName: settingBytes, ConfigValue: "-1"},
				{ConfigName: settingInSync, ConfigValue: strconv.Itoa(b.config.MinInSync)},
				{ConfigName: settingUnclean, ConfigValue: "false"},
				{ConfigName: settingBatchSize, ConfigValue: strconv.Itoa(messageBytesMax)},
			},
		}
	}
	answer, err := patiently(ctx, b, func(ctx context.Context) (*kafka.CreateTopicsResponse, error) {
		return b.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: configs})
	})
	if err != nil {
		return fmt.Errorf("create topics: %w", classify(err))
	}
	var errs []error
	for topic, err := range answer.Errors {
		// One that took longer than the request is still being made.
		if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) && !errors.Is(err, kafka.RequestTimedOut) {
			errs = append(errs, fmt.Errorf("create topic %s: %w: %w", topic, broker.ErrUnavailable, err))
		}
	}
	return errors.Join(errs...)
}

// patiently asks again, and waits longer, when the answer to a request takes longer
// than a request may, until ctx ends.
func patiently[T any](ctx context.Context, b *Broker, request func(context.Context) (T, error)) (T, error) {
	for wait := b.config.Timeout; ; wait *= 2 {
		bounded, cancel := context.WithTimeout(ctx, wait)
		answer, err := request(bounded)
		cancel()
		late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) // ours, or the connection's
		if !late || ctx.Err() != nil {
			return answer, err
		}
	}
}

// settle waits until every partition of the topics has a leader and the client
// knows it: a topic exists some time before it can be published to.
func (b *Broker) settle(ctx context.Context, topics []events.Topic) ([]topicInfo, error) {
	names := make([]string, len(topics))
	for i, topic := range topics {
		names[i] = b.name(topic)
	}
	for {
		infos, err := patiently(ctx, b, func(ctx context.Context) ([]topicInfo, error) { return b.describe(ctx, topics...) })
		if err != nil {
			return nil, err
		}
		settled, known := true, b.leaders(ctx, names...)
		for i, info := range infos {
			if info.err != nil || len(info.partitions) == 0 {
				settled = false
				continue
			}
			for partition, one := range info.partitions {
				leader, ok := known[partitionID{names[i], partition}]
				settled = settled && one.leader >= 0 && ok && leader >= 0
			}
		}
		if settled {
			return infos, nil
		}
		select {
		case <-time.After(healMin):
		case <-ctx.Done():
			return nil, fmt.Errorf("topics have no leaders: %w", ctx.Err())
		}
	}
}

// inspect reports what is wrong with topics, all at once.
func (b *Broker) inspect(ctx context.Context, infos []topicInfo) error {
	names := make([]string, len(infos))
	for i, info := range infos {
		names[i] = info.name
	}
	settings, refused, err := b.settings(ctx, names, settingCleanup, settingAge, settingBytes, settingInSync, settingUnclean, settingBatchSize)
	if err != nil {
		return err
	}
	for name, err := range refused {
		b.config.Logger.WarnContext(ctx, "topic settings cannot be read and are not checked; allow DescribeConfigs on the topic",
			"topic", name, "error", err)
	}
	var errs []error
	for _, info := range infos {
		for _, fault := range b.faults(info, settings[info.name]) {
			errs = append(errs, fmt.Errorf("topic %s: %s", info.name, fault))
		}
	}
	return errors.Join(errs...)
}

// settings reads settings of topics; refused are those of which nobody may.
func (b *Broker) settings(ctx context.Context, topics []string, names ...string) (settings map[string]map[string]string, refused map[string]error, err error) {
	request := &kafka.DescribeConfigsRequest{}
	for _, topic := range topics {
		request.Resources = append(request.Resources, kafka.DescribeConfigRequestResource{
			ResourceType: kafka.ResourceTypeTopic, ResourceName: topic, ConfigNames: names,
		})
	}
	answer, err := patiently(ctx, b, func(ctx context.Context) (*kafka.DescribeConfigsResponse, error) {
		return b.client.DescribeConfigs(ctx, request)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read the settings of topics: %w", classify(err))
	}
	settings, refused = make(map[string]map[string]string), make(map[string]error)
	for _, resource := range answer.Resources {
		if resource.Error != nil {
			refused[resource.ResourceName] = resource.Error
			continue
		}
		values := make(map[string]string)
		for _, entry := range resource.ConfigEntries {
			values[entry.ConfigName] = entry.ConfigValue
		}
		settings[resource.ResourceName] = values
	}
	return settings, refused, nil
}

// Retention implements [broker.Broker]: the setting retention.ms of the topic, or
// [Config.MaxAge] when nobody may read it.
func (b *Broker) Retention(ctx context.Context, topic events.Topic) (time.Duration, error) {
	ctx, cancel := b.bound(ctx)
	defer cancel()
	settings, refused, err := b.settings(ctx, []string{b.name(topic)}, settingAge)
	if err != nil {
		return 0, fmt.Errorf("retention of %s: %w", topic, err)
	}
	if errors.Is(refused[b.name(topic)], kafka.UnknownTopicOrPartition) {
		return 0, fmt.Errorf("retention of %s: %w", topic, broker.ErrNotFound)
	}
	age, err := strconv.ParseInt(settings[b.name(topic)][settingAge], 10, 64)
	switch {
	case err != nil:
		return b.config.MaxAge, nil
	case age < 0:
		return 0, nil
	}
	return time.Duration(age) * time.Millisecond, nil
}

// faults lists what would lose or reorder messages of a topic. settings may be
// nil, when nobody may read them.
func (b *Broker) faults(info topicInfo, settings map[string]string) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if got := len(info.partitions); got != b.config.Partitions {
		fault("it has %d partitions and this process wants %d; keys would lose their order: configure the same number", got, b.config.Partitions)
	}
	for partition, one := range info.partitions {
		if one.replicas < b.config.Replicas {
			fault("partition %d has %d replicas and %d are asked for; add some: kafka-reassign-partitions.sh", partition, one.replicas, b.config.Replicas)
			break
		}
	}
	mend := func(name string, value any) string {
		return fmt.Sprintf("kafka-configs.sh --alter --topic %s --add-config %s=%v", info.name, name, value)
	}
	number := func(name string) (int64, bool) {
		n, err := strconv.ParseInt(settings[name], 10, 64)
		return n, err == nil
	}
	if n, ok := number(settingInSync); ok && n < int64(b.config.MinInSync) {
		fault("a message is acked when %d of its replicas have it and %d are asked for; set it: %s", n, b.config.MinInSync, mend(settingInSync, b.config.MinInSync))
	}
	if settings[settingUnclean] == "true" {
		fault("a replica that lacks acked messages may become its leader; forbid it: %s", mend(settingUnclean, false))
	}
	if policy, ok := settings[settingCleanup]; ok && policy != "delete" {
		fault("its cleanup policy is %s, which drops messages by key; set it: %s", policy, mend(settingCleanup, "delete"))
	}
	if n, ok := number(settingAge); ok && n >= 0 && n < b.config.MaxAge.Milliseconds() {
		kept := time.Duration(n) * time.Millisecond
		fault("it keeps messages for %s and %s are asked for; set it: %s", kept, b.config.MaxAge, mend(settingAge, b.config.MaxAge.Milliseconds()))
	}
	if n, ok := number(settingBytes); ok && n >= 0 {
		fault("it drops old messages beyond %d bytes; lift that: %s", n, mend(settingBytes, -1))
	}
	if n, ok := number(settingBatchSize); ok && n < messageBytesMax {
		fault("it takes batches of %d bytes and ours have up to %d; set it: %s", n, messageBytesMax, mend(settingBatchSize, messageBytesMax))
	}
	return faults
}
