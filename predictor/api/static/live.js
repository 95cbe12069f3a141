// The server's live figures in the settings, read while they are open.

import { byId, make } from "./dom.js";
import { liveFigures } from "./metrics.js";
import { readMetrics } from "./server.js";
import { apiKey } from "./settings.js";

const MILLISECONDS = 2000;

let lastReading = null;

async function refresh() {
  try {
    const values = await readMetrics(apiKey());
    const now = performance.now();
    const seconds = lastReading ? (now - lastReading.at) / 1000 : NaN;
    const rows = liveFigures(values, lastReading?.values, seconds);
    lastReading = { values, at: now };
    byId("metrics").replaceChildren(...rows.flatMap(([label, text]) => [make("dt", {}, label), make("dd", {}, text)]));
    byId("metrics-note").textContent = rows.length ? "" : "No metrics of this server here.";
  } catch (error) {
    lastReading = null;
    byId("metrics").replaceChildren();
    byId("metrics-note").textContent = `No metrics: ${error.message}`;
  }
}

/** Read on for as long as the page lives, but only while somebody looks. */
export async function watchMetrics(isSeen) {
  for (;;) {
    if (isSeen() && !document.hidden) await refresh();
    await new Promise((resolve) => setTimeout(resolve, MILLISECONDS));
  }
}
