// Package ai is what is said about calls of AI models: the commands by which a saga
// has a model called or puts money by for it, and the facts about usage, budgets and
// prompts. No text of a prompt or an answer is in any fact.
//
// Amounts of money are in billionths of a US dollar (nano_usd).
package ai
