// Checks AsyncAPI documents with the official parser: node check.mjs FILE...
import { readFile } from 'node:fs/promises';
import { DiagnosticSeverity, Parser } from '@asyncapi/parser';

let failed = process.argv.length < 3;
if (failed) console.error('usage: node check.mjs FILE...');
for (const file of process.argv.slice(2)) {
  const { document, diagnostics } = await new Parser().parse(await readFile(file, 'utf8'), { source: file });
  const errors = diagnostics.filter(d => d.severity === DiagnosticSeverity.Error);
  for (const d of errors) console.error(`${file}: /${d.path.join('/')}: ${d.message} (${d.code})`);
  if (!document || errors.length > 0) {
    failed = true;
    continue;
  }
  const operations = document.operations().all();
  // A parser that has resolved nothing would find nothing wrong either.
  const messages = operations.flatMap(o => o.messages().all());
  if (operations.length === 0 || messages.length < operations.length || messages.some(m => !m.headers())) {
    console.error(`${file}: the parser sees ${operations.length} operations and ${messages.length} messages, some without headers`);
    failed = true;
    continue;
  }
  console.log(`${file}: AsyncAPI ${document.version()}, ${document.channels().all().length} channels, ${operations.length} operations, ` +
    `${diagnostics.length} remarks`);
}
process.exitCode = failed ? 1 : 0;
