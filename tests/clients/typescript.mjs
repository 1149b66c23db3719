// Plays a scenario on a server with the official TypeScript SDK, and writes down what came of it.
//
//   node typescript.mjs PACKAGES JOB TRANSCRIPT
//
// PACKAGES is the directory that has `node_modules`. JOB is a JSON file: `sdk` (1 or 2), `era` (`legacy` or
// `auto`), `server` (`url`, or `command`, `args`, `env`, `cwd`) and `steps`. The transcript does not depend on
// the order in which independent messages arrive.

import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const [packages, jobFile, transcriptFile] = process.argv.slice(2);
const require = createRequire(`${packages}/`);
const job = JSON.parse(readFileSync(jobFile, 'utf8'));
const sdk = job.sdk === 1 ? sdkOne() : sdkTwo();

// What a wait for something may take.
const PATIENCE_MS = 60_000;

// Nothing is answered from memory. SDK 1 has none.
const FRESH = { cacheMode: 'bypass' };

// What the user, the model and the file system answer.
const ANSWERS = {
  'sampling/createMessage': {
    role: 'assistant',
    model: 'a-model',
    stopReason: 'endTurn',
    content: { type: 'text', text: 'the model says hi' },
  },
  'elicitation/create': {
    action: 'accept',
    content: {
      name: 'Ada', color: 'blue', username: 'ada', email: 'ada@example.org', ok: true, check: true, context: 'tests',
    },
  },
  'roots/list': { roots: [{ uri: 'file:///some/where', name: 'somewhere' }] },
};

const heard = [];
const asked = [];
const closeAtEnd = [];
let logLevel;
let modern = false;

/** The packages up to 1.x: one package, handlers by schema. */
function sdkOne() {
  const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
  const { StdioClientTransport } = require('@modelcontextprotocol/sdk/client/stdio.js');
  const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
  const types = require('@modelcontextprotocol/sdk/types.js');
  const schemas = {
    'sampling/createMessage': types.CreateMessageRequestSchema,
    'elicitation/create': types.ElicitRequestSchema,
    'roots/list': types.ListRootsRequestSchema,
  };
  return {
    Client, StdioClientTransport, StreamableHTTPClientTransport,
    answer: (client, method, handler) => client.setRequestHandler(schemas[method], handler),
    callTool: (client, params, options) => client.callTool(params, undefined, options),
  };
}

/** The packages from 2.0: handlers by method, and 2026-07-28. */
function sdkTwo() {
  const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');
  const { StdioClientTransport } = require('@modelcontextprotocol/client/stdio');
  return {
    Client, StdioClientTransport, StreamableHTTPClientTransport,
    answer: (client, method, handler) => client.setRequestHandler(method, handler),
    callTool: (client, params, options) => client.callTool(params, options),
  };
}

function makeClient() {
  const capabilities = { roots: { listChanged: true }, sampling: {}, elicitation: { form: {} } };
  const versionNegotiation = { mode: job.era };
  const client = new sdk.Client({ name: 'typescript', version: '1.0' }, { capabilities, versionNegotiation });
  for (const [method, answer] of Object.entries(ANSWERS)) {
    sdk.answer(client, method, async (request) => {
      asked.push({ method, params: request.params ?? {} });
      return answer;
    });
  }
  client.fallbackNotificationHandler = async ({ method, params }) => {
    heard.push({ method, params: params ?? {} });
  };
  return client;
}

function makeTransport({ url, ...command }) {
  return url
    ? new sdk.StreamableHTTPClientTransport(new URL(url))
    : new sdk.StdioClientTransport({ ...command, stderr: 'ignore' });
}

/** All items of a list, page by page. */
async function list(client, what) {
  const [method, member] = {
    tools: ['listTools', 'tools'],
    prompts: ['listPrompts', 'prompts'],
    resources: ['listResources', 'resources'],
    templates: ['listResourceTemplates', 'resourceTemplates'],
  }[what];
  const items = [];
  let cursor;
  do {
    const page = await client[method](cursor === undefined ? undefined : { cursor }, FRESH);
    items.push(...page[member]);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
  return items;
}

/**
 * A call; `cancel` withdraws it at its first progress, `timeoutMs` when that has passed.
 *
 * The last progress is left out: the SDK loses it if it comes in one read with the result. So is what the SDK
 * itself reports of rounds of questions, which has no total.
 */
async function call(client, step, entry) {
  const withdrawn = new AbortController();
  const options = { timeout: step.timeoutMs ?? PATIENCE_MS, signal: withdrawn.signal };
  if (step.progress || step.cancel) {
    entry.progress = [];
    options.onprogress = (progress) => {
      const counts = progress.total !== undefined && progress.progress !== progress.total;
      if (counts && !withdrawn.signal.aborted) entry.progress.push(progress);
      if (step.cancel) withdrawn.abort('enough');
    };
  }
  const params = { name: step.call, arguments: step.arguments ?? {} };
  if (modern && logLevel) params._meta = { 'io.modelcontextprotocol/logLevel': logLevel };
  return sdk.callTool(client, params, options);
}

async function setLevel(client, level) {
  logLevel = level;
  return modern ? {} : client.setLoggingLevel(level);
}

/** Has changes of a resource, and of the prompts, told. */
async function watch(client, uri) {
  if (!modern) return client.subscribeResource({ uri });
  const watching = await client.listen({ resourceSubscriptions: [uri], promptsListChanged: true });
  closeAtEnd.push(watching);
  return {};
}

async function until(method, count) {
  const deadline = Date.now() + PATIENCE_MS;
  while (heard.filter((message) => message.method === method).length < count) {
    if (Date.now() > deadline) throw new Error(`waited for ${count} ${method}; heard ${JSON.stringify(heard)}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return {};
}

function play(client, step, entry) {
  if (step.list) return list(client, step.list);
  if (step.call) return call(client, step, entry);
  if (step.read) return client.readResource({ uri: step.read }, FRESH);
  if (step.prompt) return client.getPrompt({ name: step.prompt, arguments: step.arguments });
  if (step.complete) return client.complete(step.complete);
  if (step.level) return setLevel(client, step.level);
  if (step.watch) return watch(client, step.watch);
  if (step.until) return until(step.until, step.count);
  throw new Error(`no such step: ${JSON.stringify(step)}`);
}

async function main() {
  const client = makeClient();
  await client.connect(makeTransport(job.server), { timeout: PATIENCE_MS });
  const server = {
    info: client.getServerVersion(),
    capabilities: client.getServerCapabilities(),
    instructions: client.getInstructions(),
    revision: client.getNegotiatedProtocolVersion?.(),
  };
  modern = server.revision === '2026-07-28';
  const steps = [];
  for (const step of job.steps) {
    const entry = { step };
    try {
      entry.result = await play(client, step, entry);
    } catch (error) {
      if (error.code === undefined && !step.cancel) throw error;
      entry.error = { code: error.code, message: error.message, data: error.data };
    }
    steps.push(entry);
  }
  for (const open of closeAtEnd) await open.close();
  await client.close();
  writeFileSync(transcriptFile, JSON.stringify({ server, steps, heard, asked }));
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
