// Package config reads the configuration of the AI route, in YAML: providers with
// their keys, deployments, and the models that clients ask for. A file is checked as a
// whole and taken as a whole; secrets are named in it, by environment variable or file,
// and never part of it.
package config
