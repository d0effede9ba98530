// One answer under way: asks the server, fills the node, measures. It knows nothing of the page.

import { ApiError, countTokens, streamChat } from "./api.js";

export class Answer {
  /**
   * `onChange` is called when the node has changed, `onEnd` once, when its `finish` is set.
   * After a stop one more `onChange` may follow, with the numbers.
   */
  constructor(conversation, node, { onChange, onEnd }) {
    Object.assign(this, { conversation, node, onChange, onEnd });
    this.controller = new AbortController();
    this.begun = performance.now();
    this.firstAt = 0;
    this.lastAt = 0;
    this.pieces = 0;
    this.reason = "";
  }

  stop() {
    this.controller.abort();
  }

  /** Pieces per second so far; a piece is about a token. 0 until there is something to measure. */
  rate() {
    const time = this.lastAt - this.firstAt;
    return this.pieces > 4 && time > 250 ? ((this.pieces - 1) * 1000) / time : 0;
  }

  async run(model) {
    const { conversation, node } = this;
    const body = { messages: conversation.messages(node.parent), ...conversation.sampling };
    if (model) body.model = model;
    try {
      for await (const event of streamChat(body, this.controller.signal)) this.take(event);
      node.finish = this.reason || "stop";
    } catch (error) {
      this.fail(error);
    }
    this.measure();
    this.onEnd(this);
    if (node.finish === "stopped") await this.countWhatCame();
  }

  take(event) {
    const { node } = this;
    if (event.text) {
      this.lastAt = performance.now();
      this.firstAt ||= this.lastAt;
      this.pieces += 1;
      node.content += event.text;
    }
    if (event.finish) this.reason = event.finish === "length" ? "length" : "stop";
    if (event.usage) node.usage = event.usage;
    this.onChange(this);
  }

  fail(error) {
    const { node } = this;
    if (this.controller.signal.aborted) {
      node.finish = "stopped";
      return;
    }
    const known = error instanceof ApiError ? error : new ApiError("strange", String(error));
    node.finish = "error";
    node.error = { kind: known.kind, message: known.message };
  }

  /** A stopped stream sends no usage: count the tokens ourselves, if the server still answers. */
  async countWhatCame() {
    const { conversation, node } = this;
    const limit = AbortSignal.timeout(3000);
    try {
      const [prompt, completion] = await Promise.all([
        countTokens({ messages: conversation.messages(node.parent) }, limit),
        node.content ? countTokens({ prompt: node.content.toWellFormed() }, limit) : { count: 0 },
      ]);
      node.usage = { prompt: prompt.count, completion: completion.count };
      this.measure();
      this.onChange(this);
    } catch {
      // The answer is there without its numbers.
    }
  }

  measure() {
    if (!this.firstAt) return;
    const time = this.lastAt - this.firstAt;
    const tokens = this.node.usage?.completion ?? this.pieces;
    this.node.timing = { first: this.firstAt - this.begun };
    if (tokens > 1 && time > 20) this.node.timing.rate = ((tokens - 1) * 1000) / time;
  }
}
