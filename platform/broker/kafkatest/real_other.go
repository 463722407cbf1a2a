//go:build !linux

package kafkatest

import "os/exec"

func dieWithParent(*exec.Cmd) {} // only Linux can
