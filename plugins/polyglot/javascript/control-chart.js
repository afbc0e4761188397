// The control chart of `plugins/control-chart`, in JavaScript: the same configuration, the same alarms, and the same state, so that
// either of the two can go on with what the other one has kept.

import { get } from "parti:plugin/config@0.1.0";
import { send } from "parti:plugin/publish@0.1.0";

const FORMAT = "control-chart/1";
const ack = { tag: "ack" };
// QuickJS has no TextEncoder and no TextDecoder.
const encode = (text) => Uint8Array.from(unescape(encodeURIComponent(text)), (character) => character.charCodeAt(0));
const decode = (bytes) => decodeURIComponent(escape(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")));

const reject = (reason) => ({ tag: "reject", val: reason });

class PartitionHandler {
  static open(partition, why, snapshot) {
    if (snapshot && snapshot.format !== FORMAT) {
      throw `the snapshot is in the format \`${snapshot.format}\`, and this version reads \`${FORMAT}\``;
    }
    const handler = new PartitionHandler();
    handler.partition = partition.id;
    handler.field = get("field") ?? "value";
    handler.width = Number(get("sigma") ?? 3);
    handler.weight = Number(get("lambda") ?? 0.2);
    handler.warmup = Number(get("warmup") ?? 30);
    handler.chart = { count: 0, mean: 0, m2: 0, ewma: 0, last_sequence: 0 };
    if (snapshot) handler.chart = JSON.parse(decode(snapshot.data));
    return handler;
  }

  handle(batch) {
    const done = [];
    for (const message of batch) {
      try {
        done.push(this.take(message));
      } catch {
        // The host does not publish. It may be the batch's limit, and a message that is tried again begins the next batch.
        return { done, retry: { tag: "some", val: null } };
      }
    }
    return { done, retry: { tag: "none" } };
  }

  take(message) {
    let reading;
    try {
      reading = JSON.parse(decode(message.payload))[this.field];
    } catch {
      reading = undefined;
    }
    if (typeof reading !== "number") return reject(`the payload has no numeric field \`${this.field}\``);
    // Sequences stay below 2^53: a stream of a million messages a second reaches that in 285 years.
    const sequence = Number(message.sequence);
    const chart = this.add(sequence, reading);
    if (!chart) return reject(`the reading ${reading} is not finite, or too large for the chart`);
    const alarm = this.judge(sequence, reading);
    if (alarm) {
      const payload = encode(JSON.stringify({ partition: this.partition, ...alarm }));
      send(message.sequence, `alarms.${this.partition}`, [], payload);
    }
    this.chart = chart;
    return ack;
  }

  // The alarm that a reading is reported with, by the readings before it.
  judge(sequence, value) {
    const { count, mean, m2, ewma } = this.chart;
    const sigma = count > 1 ? Math.sqrt(m2 / (count - 1)) : 0;
    const lower = mean - this.width * sigma;
    const upper = mean + this.width * sigma;
    if (count < this.warmup || (lower <= value && value <= upper)) return undefined;
    return { sequence, value, mean, sigma, ewma, lower, upper, count };
  }

  // The chart with this reading; nothing if it could not hold it.
  add(sequence, value) {
    const before = this.chart;
    const count = before.count + 1;
    const delta = value - before.mean;
    const mean = before.mean + delta / count;
    const m2 = before.m2 + delta * (value - mean);
    const ewma = count === 1 ? value : before.ewma + this.weight * (value - before.ewma);
    if (![mean, m2, ewma].every(Number.isFinite)) return undefined;
    return { count, mean, m2, ewma, last_sequence: sequence };
  }

  snapshot() {
    return { format: FORMAT, data: encode(JSON.stringify(this.chart)) };
  }

  close() {}
}

export const handler = { PartitionHandler };
