// The main path through OpenAI's Node client: prints one JSON object of what it saw.
import { createRequire } from "node:module";
import fs from "node:fs";
import path from "node:path";

const [modules, baseURL, rows] = process.argv.slice(2);
const { default: OpenAI } = createRequire(path.join(modules, "x.js"))("openai");
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const seen = {};

const file = await client.files.create({ file: fs.createReadStream(rows), purpose: "fine-tune" });
seen.processed = (await client.files.waitForProcessing(file.id)).status;
const job = await client.fineTuning.jobs.create({
  model: "gpt-4o-mini", training_file: file.id, seed: 5, suffix: "node",
  method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 2, batch_size: 4 } } },
});
seen.created = job.status;
let now = job;
while (!["succeeded", "failed", "cancelled"].includes(now.status)) {
  await new Promise((wake) => setTimeout(wake, 300));
  now = await client.fineTuning.jobs.retrieve(job.id);
}
seen.status = now.status;
seen.error = now.error;
seen.model = now.fine_tuned_model;
seen.events = 0;
for await (const event of client.fineTuning.jobs.listEvents(job.id, { limit: 5 })) {
  seen.events += event.object === "fine_tuning.job.event" ? 1 : 0;
}
const checkpoints = [];
for await (const item of client.fineTuning.jobs.checkpoints.list(job.id)) checkpoints.push(item);
seen.steps = checkpoints.map((item) => item.step_number);
const messages = [{ role: "user", content: "question 3 about my card" }];
const ask = { messages, max_tokens: 8, temperature: 0, seed: 1 };
const said = async (model) =>
  (await client.chat.completions.create({ ...ask, model })).choices[0].message.content;
seen.said = await said(now.fine_tuned_model);
seen.checkpointSaid = await said(checkpoints[0].fine_tuned_model_checkpoint);
seen.streamed = "";
const stream = await client.chat.completions.create({
  ...ask, model: now.fine_tuned_model, stream: true,
});
for await (const chunk of stream) seen.streamed += chunk.choices[0]?.delta?.content ?? "";
const results = await client.files.content(now.result_files[0]);
seen.results = (await results.text()).split("\n")[0];
seen.listed = (await client.models.list()).data.some((item) => item.id === now.fine_tuned_model);
seen.deleted = (await client.models.delete(now.fine_tuned_model)).deleted;
seen.fileDeleted = (await client.files.delete(file.id)).deleted;
try {
  await client.fineTuning.jobs.create({ model: "none-such", training_file: file.id });
} catch (error) {
  seen.refused = [error.constructor.name, error.status, error.param];
}
console.log(JSON.stringify(seen));
