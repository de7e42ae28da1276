// What the words of a receipt mean, one sentence each; docs/policies.md says more. A word that is not
// here is shown as it is.

import { count, duration, number, percent } from "./format.js";

export const REASONS = {
  only_candidate: "It was the only worker that could take the request.",
  prefix_match: "It is thought to hold the longest part of this prompt, and nobody is overloaded.",
  prefix_spill: "The prompt's first choice has too much to do; it is the next best for this prompt.",
  prefix_dropped: "It had this prompt before its cache dropped it, and computing it there again makes no second copy.",
  prefix_hash: "The start of the prompt belongs to it.",
  imbalanced: "Somebody is overloaded, so load went before the prefix.",
  least_loaded: "It has the least to do.",
  least_expected_ttft: "The first token is expected there first.",
  spares_others: "Elsewhere it would have been sooner, but would have delayed those behind it for longer.",
  two_choices: "Of two workers drawn at random it has less to do.",
  round_robin: "It was chosen longest ago.",
  random: "It was drawn at random.",
  target_worker: "The request named it.",
  routing_key: "The request's routing key belongs to it.",
  session: "The request's session belongs to it.",
  sticky: "The request's routing key was assigned to it before.",
  assigned: "The request's routing key is new and was assigned to it.",
  reassigned: "The worker of the request's routing key is away; the key was assigned to this one too.",
  no_key: "The request has no routing key: it was drawn at random.",
  bucket: "It takes the prompts of this length.",
  gradient_based: "Its score of throughput and latency gradients is the highest.",
  insufficient_history: "Too little has finished at some worker to compare gradients: it has the least to do.",
  weighted: "It was drawn with the probabilities that were set.",
  unweighted: "No probability was set for any candidate: it was drawn with equal chances.",
};

/** Title of the column, what the number is, and how it is shown. */
export const NUMBERS = {
  in_flight: ["In flight", "requests at the worker when the choice was made, of all replicas", count],
  queued_tokens: ["Queued tokens", "input at the worker that still waits for its prefill", count],
  prefix_match: ["Prefix", "part of this prompt that the worker is thought to hold", percent],
  prefill_rate: ["Prefill rate", "input tokens per second, as learned", number],
  expected_ttft_seconds: ["Expected TTFT", "when the first token was expected", duration],
  cost_seconds: ["Cost", "expected TTFT, and the delay of those who come behind it", duration],
  ring_turn: ["Turn", "in which place on the ring it was looked at", number],
  keys: ["Keys", "routing keys assigned to it", count],
  recent_bytes: ["Recent bytes", "prompts it was given lately, in bytes", count],
  longest_bytes: ["Longest", "longest prompt of its bucket, in bytes", count],
  weight: ["Weight", "its share of the choices", number],
  drawn: ["Drawn", "1 for the workers that were drawn", number],
  last_turn: ["Last turn", "when it was chosen last; -1: never", number],
};

export const QUALITIES = {
  exact: "all figures were current",
  degraded: "some figures were old or missing",
  fallback: "a simpler rule decided",
};
