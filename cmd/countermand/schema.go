package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/countermand/countermand/cmd/internal/wire"
	"github.com/countermand/countermand/events/asyncapi"
	"github.com/countermand/countermand/events/compat"
	"github.com/countermand/countermand/events/schema"
)

func schemaCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "schema", Short: "Look after the JSON Schemas of this binary's contracts: check"}
	cmd.AddCommand(schemaCheckCommand())
	return cmd
}

func schemaCheckCommand() *cobra.Command {
	var against, path, output string
	cmd := &cobra.Command{
		Use: "check", Short: "Compare the contracts with an earlier version; exit code 1 when a change breaks somebody", Args: cobra.NoArgs,
		Long: `Check compares the contracts of this binary with those of an earlier version and
prints every change that breaks somebody: where, whom, and how to mend it.

The earlier version is a folder of JSON Schemas, an AsyncAPI document, or a git
revision whose schemas are in the folder --path.`,
		Example: `  countermand schema check --against main
  countermand schema check --against v1.4.0 --path contracts/schemas
  countermand schema check --against asyncapi-nats.json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			now, err := wire.Schemas()
			if err != nil {
				return err
			}
			before, err := earlier(cmd.Context(), against, path)
			if err != nil {
				return failure{wire.ExitUsage, err, "give a folder of JSON Schemas, an AsyncAPI document, or a git revision and --path"}
			}
			return checkSchemas(cmd.OutOrStdout(), cmd.ErrOrStderr(), output, before, now)
		},
	}
	cmd.Flags().StringVar(&against, "against", "", "git revision, folder or AsyncAPI document of the earlier version")
	_ = cmd.MarkFlagRequired("against") // it is there
	cmd.Flags().StringVar(&path, "path", "events/shop/schemas", "folder of the schemas in a git revision, from where you are")
	outputFlag(cmd, &output)
	return cmd
}

// checkSchemas prints the violations between two versions.
func checkSchemas(out, words io.Writer, output string, before map[string][]byte, now []schema.Schema) error {
	found, err := compat.Check(before, now)
	if err != nil {
		return err
	}
	if output != "table" {
		if err := printAll(out, found, output); err != nil {
			return err
		}
	} else {
		for _, v := range found {
			fmt.Fprintf(out, "%s#%s\n  %s\n  fix: %s\n", v.Contract, v.Pointer, v.Breaks, v.Mend)
		}
	}
	if len(found) > 0 {
		return failure{wire.ExitFailed, fmt.Errorf("%d changes break somebody", len(found)), ""}
	}
	fmt.Fprintf(words, "%d schemas are compatible with the %d before\n", len(now), len(before))
	return nil
}

// earlier loads the schemas of an earlier version. To find none is an error: there
// would be nothing to break.
func earlier(ctx context.Context, against, path string) (schemas map[string][]byte, err error) {
	info, statErr := os.Stat(against)
	switch {
	case statErr == nil && info.IsDir():
		schemas, err = schemasOfFolder(against)
	case statErr == nil:
		var document []byte
		if document, err = os.ReadFile(against); err == nil {
			schemas, err = asyncapi.Schemas(document)
		}
	default:
		schemas, err = schemasOfRevision(ctx, against, path)
	}
	if err == nil && len(schemas) == 0 {
		err = fmt.Errorf("%s holds no schemas", against)
	}
	return schemas, err
}

func schemasOfFolder(folder string) (map[string][]byte, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, err
	}
	schemas := make(map[string][]byte)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		schemas[strings.TrimSuffix(filepath.Base(file), ".json")] = content
	}
	return schemas, nil
}

// schemasOfRevision reads the folder out of git, without touching the work tree.
func schemasOfRevision(ctx context.Context, revision, folder string) (map[string][]byte, error) {
	if strings.HasPrefix(revision, "-") {
		return nil, fmt.Errorf("%q is no git revision", revision)
	}
	if !filepath.IsAbs(folder) {
		folder = "./" + filepath.ToSlash(folder) // from here, and not from the top of the repository
	}
	tree, err := git(ctx, "rev-parse", "--verify", "--quiet", revision+":"+folder)
	if err != nil {
		return nil, fmt.Errorf("there is neither a file %s nor a git revision %s with the folder %s: %w", revision, revision, folder, err)
	}
	// Of a subfolder git would archive what is below the same one in the tree.
	top, err := git(ctx, "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, err
	}
	archive, err := git(ctx, "-C", strings.TrimSpace(string(top)), "archive", "--format=tar", strings.TrimSpace(string(tree)))
	if err != nil {
		return nil, err
	}
	schemas := make(map[string][]byte)
	for reader := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := reader.Next()
		switch {
		case errors.Is(err, io.EOF):
			return schemas, nil
		case err != nil:
			return nil, fmt.Errorf("git archive: %w", err)
		}
		name, isSchema := strings.CutSuffix(header.Name, ".json")
		if !isSchema || strings.Contains(name, "/") {
			continue
		}
		if schemas[name], err = io.ReadAll(reader); err != nil {
			return nil, fmt.Errorf("git archive: %w", err)
		}
	}
}

func git(ctx context.Context, args ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, "git", args...)
	out, err := command.Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok && len(failed.Stderr) > 0 {
		err = fmt.Errorf("git: %s", bytes.TrimSpace(failed.Stderr))
	}
	return out, err
}
