// The server's live figures, worked out from two readings of its metrics.

const PREFIX = "kserve_llamacpp_";

const whole = (value) => Math.round(value).toString();
const percent = (value) => `${Math.round(value * 100)} %`;
const perSecond = (value) => `${value.toFixed(1)} /s`;
const milliseconds = (value) => `${Math.round(value * 1000)} ms`;

/**
 * Label and text of each figure. Rates are over the time between the readings, in seconds; averages are over
 * all requests since the server started. A metric that the server doesn't have is left out.
 */
export function liveFigures(now, before, seconds) {
  const value = (name) => now.get(PREFIX + name);
  const grown = (name) => (before ? value(name) - (before.get(PREFIX + name) ?? 0) : undefined);
  const mean = (name) => value(`${name}_sum`) / value(`${name}_count`);
  const figures = [
    ["Requests running", value("num_requests_running"), whole],
    ["Requests waiting", value("num_requests_waiting"), whole],
    ["KV cache in use", value("kv_cache_usage_perc"), percent],
    ["Tokens generated", grown("generation_tokens_total") / seconds, perSecond],
    ["Prompt tokens reused", value("prefix_cache_hits_total") / value("prefix_cache_queries_total"), percent],
    ["Mean time to first token", mean("time_to_first_token_seconds"), milliseconds],
    ["Mean time between tokens", mean("inter_token_latency_seconds"), milliseconds],
  ];
  return figures.filter(([, figure]) => Number.isFinite(figure)).map(([label, figure, text]) => [label, text(figure)]);
}
