//go:build race

package product

const raceEnabled = true
