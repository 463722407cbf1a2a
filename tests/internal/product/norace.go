//go:build !race

package product

const raceEnabled = false
