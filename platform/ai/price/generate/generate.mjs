// Writes the price catalogue that the Go package embeds, and what the source's own
// calculator says of a sample of it, from the npm package in package.json:
//
//	npm install --no-package-lock && npm run generate
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { calcPrice, findProvider } from '@pydantic/genai-prices'

const here = dirname(fileURLToPath(import.meta.url))
const source = join(here, 'node_modules/@pydantic/genai-prices')
const { name, version, license = 'MIT' } = JSON.parse(readFileSync(join(source, 'package.json'), 'utf8'))

// The package does not list its providers.
const code = readFileSync(join(source, 'dist/index.js'), 'utf8')
const ids = [...new Set([...code.matchAll(/\bid: "([a-z0-9_-]+)"/g)].map((m) => m[1]))]
const providers = ids.map((id) => findProvider({ providerId: id })).filter((p, i) => p && p.id === ids[i])

// Dollars for a million to billionths of a dollar. A few prices are quotients with
// more decimals; what lies beyond is less than anybody is billed.
function nano(dollars) {
  const [whole, fraction] = dollars.toFixed(9).split('.')
  return Number(whole + fraction)
}

const classes = {
  input: 'input_mtok', cached_input: 'cache_read_mtok', cache_write: 'cache_write_mtok', cache_write_1h: 'cache_write_1h_mtok',
  output: 'output_mtok', reasoning: 'output_reasoning_mtok',
}

function rates(prices) {
  const out = {}
  for (const [name, key] of Object.entries(classes)) {
    const price = prices[key]
    if (price === undefined) continue
    out[name] = typeof price === 'number'
      ? [[0, nano(price)]]
      : [[0, nano(price.base)], ...price.tiers.map((t) => [t.start, nano(t.price)])].sort((a, b) => a[0] - b[0])
  }
  // For a thousand requests in dollars: for one in billionths.
  if (prices.requests_kcount !== undefined) out.request = Math.round(nano(prices.requests_kcount) / 1000)
  return out
}

// Go's regular expressions look neither ahead nor behind; the one such form is a "not".
function matcher(m) {
  for (const key of ['or', 'and']) if (m[key]) return { [key]: m[key].map(matcher) }
  const not = m.regex?.match(/^\^\(\?!\.\*(.*)\)$/)
  if (not) return { not: { regex: not[1] } }
  if (/\(\?[!=<]/.test(m.regex ?? '')) throw new Error(`${m.regex} cannot be told to Go`)
  return m
}

function model(m) {
  const conditions = Array.isArray(m.prices) ? m.prices : [{ prices: m.prices }]
  const prices = conditions.map(({ constraint, prices }) => {
    const out = {}
    if (constraint?.type === 'start_date') out.from = constraint.start_date
    if (constraint?.type === 'time_of_date') Object.assign(out, { start: constraint.start_time, end: constraint.end_time })
    return { ...out, ...rates(prices) }
  })
  // What is priced by the hour or the page only cannot be billed by tokens.
  if (prices.some((p) => p.input === undefined && p.output === undefined)) return undefined
  return { id: m.id, match: matcher(m.match), prices }
}

const lines = providers.sort((a, b) => (a.id < b.id ? -1 : 1)).map((p) => {
  const models = p.models.map(model).filter(Boolean).map((m) => JSON.stringify(m))
  const head = JSON.stringify({ id: p.id, fallback: p.fallback_model_providers }).slice(0, -1)
  return `${head},"models":[\n${models.join(',\n')}\n]}`
})
writeFileSync(join(here, '../catalogue.json'),
  `{"source":${JSON.stringify(name)},"version":${JSON.stringify(version)},"licence":${JSON.stringify(license)},"providers":[\n${lines.join(',\n')}\n]}\n`)

// The sample takes every ninth model, so that all providers are in it, at times that
// lie on both sides of the changes, with usages on both sides of the tiers.
const times = ['2025-03-01T00:30:00Z', '2026-01-15T07:00:00Z', '2026-09-20T12:00:00Z']
const usages = [
  { input: 1000, output: 200 },
  { input: 3, output: 1 },
  { input: 120, cached_input: 7000, cache_write: 800, output: 90, reasoning: 410 },
  { input: 150000, cached_input: 60000, output: 5000 },
  { input: 271999, output: 10 },
  { input: 271000, cached_input: 1000, output: 10 },
]
const sample = []
let n = 0
for (const p of providers) {
  for (const m of p.models) {
    if (n++ % 9 !== 0 || !model(m)) continue
    const usage = usages[(n / 9 | 0) % usages.length]
    const timestamp = times[(n / 9 | 0) % times.length]
    const c = { input: 0, cached_input: 0, cache_write: 0, output: 0, reasoning: 0, ...usage }
    const asked = { input_tokens: c.input + c.cached_input + c.cache_write, output_tokens: c.output + c.reasoning }
    if (c.cached_input) asked.cache_read_tokens = c.cached_input
    if (c.cache_write) asked.cache_write_tokens = c.cache_write
    if (c.reasoning) asked.output_reasoning_tokens = c.reasoning
    const result = calcPrice(asked, m.id, { providerId: p.id, timestamp: new Date(timestamp) })
    if (!result) continue
    // Our usage does not tell how long the cache keeps: the model's extra does.
    if (c.cache_write && m.prices.cache_write_1h_mtok !== undefined) {
      const { cache_write_tokens, ...rest } = asked
      const long = calcPrice({ ...rest, cache_write_tokens, cache_write_1h_tokens: cache_write_tokens }, m.id, { providerId: p.id, timestamp: new Date(timestamp) })
      sample.push(JSON.stringify({ provider: `${p.id}+cache-1h`, model: m.id, at: timestamp, usage, matched: long.model.id, usd: long.total_price }))
    }
    sample.push(JSON.stringify({ provider: p.id, model: m.id, at: timestamp, usage, matched: result.model.id, usd: result.total_price }))
  }
}
writeFileSync(join(here, '../testdata/oracle.json'), `[\n${sample.join(',\n')}\n]\n`)
console.log(`${providers.length} providers, ${sample.length} in the sample`)
