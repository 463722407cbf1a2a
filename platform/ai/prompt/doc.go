// Package prompt publishes prompts as endpoints: variables in, checked by a JSON
// Schema, and a text or an object out, checked by another.
//
// A [Prompt] is published in versions that never change. The channels latest and
// stable stand for versions: publishing moves latest, an operator moves stable. A
// caller names one of them, or a version: triage, triage:latest, triage:3. Without a
// name it is stable, or latest while nothing is stable.
//
// A model whose output breaks the schema is told what is wrong and asked again, a
// bounded number of times. Each of these attempts is billed; all are on one
// reservation, and may be under one cap.
package prompt
