package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countermand/countermand/platform/postgres"
)

// askTogether asks the first question, and the others while that one is being
// answered. It returns what came of each.
func askTogether(ctx context.Context, b *postgres.Batcher[string, string], questions ...string) map[string]error {
	var (
		mu   sync.Mutex
		errs = make(map[string]error)
		wait sync.WaitGroup
	)
	for _, question := range questions {
		wait.Go(func() {
			answer, err := b.Do(ctx, question)
			if err == nil && answer != "re: "+question {
				err = fmt.Errorf("answer %q", answer)
			}
			mu.Lock()
			defer mu.Unlock()
			errs[question] = err
		})
		synctest.Wait()
	}
	wait.Wait()
	return errs
}

// answering returns a batcher whose run takes a second and fails as fail says.
func answering(most int, runs *[]int, fail func(asked []string) error) *postgres.Batcher[string, string] {
	return postgres.NewBatcher(most, 10*time.Second, func(ctx context.Context, asked []string) ([]string, error) {
		*runs = append(*runs, len(asked))
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
		if err := fail(asked); err != nil {
			return nil, err
		}
		answers := make([]string, len(asked))
		for i, question := range asked {
			answers[i] = "re: " + question
		}
		return answers, nil
	})
}

func TestBatcherGathersWhatIsAskedMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var runs []int
		b := answering(4, &runs, func([]string) error { return nil })
		for question, err := range askTogether(t.Context(), b, "1", "2", "3", "4", "5", "6", "7") {
			if err != nil {
				t.Errorf("%s: %v", question, err)
			}
		}
		if !slices.Equal(runs, []int{1, 4, 2}) {
			t.Errorf("seven questions were answered in runs of %v, want 1, 4 and 2", runs)
		}
	})
}

// A question that cannot be answered fails alone.
func TestBatcherBlamesOne(t *testing.T) {
	t.Parallel()
	bad := errors.New("bad")
	tests := map[string]func() error{
		"error": func() error { return bad },
		"panic": func() error { panic(bad) },
	}
	for name, fail := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var runs []int
				b := answering(9, &runs, func(asked []string) error {
					if slices.Contains(asked, "bad") {
						return fail()
					}
					return nil
				})
				for question, err := range askTogether(t.Context(), b, "first", "good", "bad", "fine") {
					if (err != nil) != (question == "bad") {
						t.Errorf("%s: %v", question, err)
					}
				}
				if !slices.Equal(runs, []int{1, 3, 1, 1, 1}) {
					t.Errorf("runs of %v", runs)
				}
			})
		})
	}
}

// What passes by itself is nobody's fault and is not tried for each.
func TestBatcherDoesNotMultiplyAnOutage(t *testing.T) {
	t.Parallel()
	for _, failure := range []error{&pgconn.PgError{Code: "57P01"}, postgres.ErrCommitUnknown, context.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			var runs []int
			b := answering(9, &runs, func([]string) error { return failure })
			for question, err := range askTogether(t.Context(), b, "1", "2", "3") {
				if !errors.Is(err, failure) {
					t.Errorf("%s: %v", question, err)
				}
			}
			if !slices.Equal(runs, []int{1, 2}) {
				t.Errorf("%v: runs of %v", failure, runs)
			}
		})
	}
}

// A caller that leaves does not take the others along.
func TestBatcherOutlivesACaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var runs []int
		b := answering(9, &runs, func([]string) error { return nil })
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			if _, err := b.Do(ctx, "gone"); !errors.Is(err, context.Canceled) {
				t.Errorf("the caller who left: %v", err)
			}
		}()
		synctest.Wait()
		go func() {
			if answer, err := b.Do(t.Context(), "there"); answer != "re: there" || err != nil {
				t.Errorf("the caller who stayed: %q, %v", answer, err)
			}
		}()
		synctest.Wait()
		leave()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if !slices.Equal(runs, []int{1, 1}) {
			t.Errorf("runs of %v", runs)
		}
	})
}
