package kafkatest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Version is that of the Apache Kafka that is fetched.
const Version = "4.1.1"

// javaLeast is the Java that this Kafka needs.
const javaLeast = 17

// mavenPlugin copies what the pom names; pinned like the rest.
const mavenPlugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"

var (
	//go:embed pom.xml
	pom []byte
	//go:embed checksums.txt
	checksums []byte
)

// ErrNotHere is wrapped by what [Install] says when this machine cannot have a
// real Kafka: no Java, no Maven, or no way to Maven Central.
var ErrNotHere = errors.New("a real Kafka cannot be had here")

// Installation is a Kafka that can be started.
type Installation struct {
	java string
	libs string // folder of jars
}

// Install finds Java and the server's jars, which Maven fetches the first time
// into the user's cache folder. Their checksums are compared each time.
func Install(ctx context.Context, progress func(string)) (*Installation, error) {
	java, err := findJava(ctx)
	if err != nil {
		return nil, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("cache folder: %w", err)
	}
	libs := filepath.Join(cache, "countermand", "kafka-"+Version)
	if _, err := os.Stat(libs); errors.Is(err, fs.ErrNotExist) {
		progress("fetching Apache Kafka " + Version + " from Maven Central (about 100 MB, once)")
		if err := fetch(ctx, libs); err != nil {
			return nil, err
		}
	}
	if err := verify(libs); err != nil {
		return nil, fmt.Errorf("%w; remove the folder to fetch it again", err)
	}
	return &Installation{java: java, libs: libs}, nil
}

var javaVersion = regexp.MustCompile(`version "(\d+)`)

func findJava(ctx context.Context) (string, error) {
	java := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		java = filepath.Join(home, "bin", "java")
	}
	path, err := exec.LookPath(java)
	if err != nil {
		return "", fmt.Errorf("%w: Java %d or newer is needed: %w; try: apt-get install openjdk-17-jre-headless maven", ErrNotHere, javaLeast, err)
	}
	output, err := exec.CommandContext(ctx, path, "-version").CombinedOutput()
	found := javaVersion.FindSubmatch(output)
	if err != nil || found == nil {
		return "", fmt.Errorf("%w: %s does not say its version: %s", ErrNotHere, path, output)
	}
	if major, err := strconv.Atoi(string(found[1])); err != nil || major < javaLeast {
		return "", fmt.Errorf("%w: %s is version %s and %d or newer is needed", ErrNotHere, path, found[1], javaLeast)
	}
	return path, nil
}

// fetch has Maven copy the jars into a folder beside, which takes its place when
// it is complete.
func fetch(ctx context.Context, libs string) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("%w: Maven is needed to fetch it: %w; try: apt-get install maven", ErrNotHere, err)
	}
	if err := os.MkdirAll(filepath.Dir(libs), 0o755); err != nil {
		return err
	}
	stage, err := os.MkdirTemp(filepath.Dir(libs), "fetching-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(stage) }() // it is gone when all went well
	file := filepath.Join(stage, "pom.xml")
	if err := os.WriteFile(file, pom, 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, mvn, "--batch-mode", "--no-transfer-progress", "--file", file, mavenPlugin, "-DoutputDirectory="+filepath.Join(stage, "libs"))
	command.Dir = stage
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: Maven could not fetch it: %w\n%s", ErrNotHere, err, tail(output, 10))
	}
	if err := verify(filepath.Join(stage, "libs")); err != nil {
		return err
	}
	return os.Rename(filepath.Join(stage, "libs"), libs)
}

func tail(output []byte, lines int) string {
	all := strings.Split(strings.TrimSpace(string(output)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// verify compares every jar with its checksum; none may be missing or extra.
func verify(libs string) error {
	want := make(map[string]string)
	for lines := bufio.NewScanner(bytes.NewReader(checksums)); lines.Scan(); {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok {
			return fmt.Errorf("checksums.txt: %q", lines.Text())
		}
		want[name] = sum
	}
	entries, err := os.ReadDir(libs)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		sum, err := checksum(filepath.Join(libs, entry.Name()))
		if err != nil {
			return err
		}
		if want[entry.Name()] != sum {
			return fmt.Errorf("%s in %s is not what was expected: SHA-256 %s", entry.Name(), libs, sum)
		}
		delete(want, entry.Name())
	}
	if len(want) > 0 {
		return fmt.Errorf("%s lacks %s", libs, strings.Join(slices.Sorted(maps.Keys(want)), ", "))
	}
	return nil
}

func checksum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // it was only read
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
