// Conversations as JSON files.

import { el } from "./dom.js";
import { Conversation, newId } from "./tree.js";

const KIND = "kaiyuan-conversations";
const LARGEST = 64 << 20;

export function exportConversations(conversations) {
  const value = { kind: KIND, version: 1, conversations: conversations.map((conversation) => conversation.toJSON()) };
  const address = URL.createObjectURL(new Blob([JSON.stringify(value, null, 1)], { type: "application/json" }));
  const day = new Date().toISOString().slice(0, 10);
  el("a", { href: address, download: `kaiyuan-${day}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** The conversations in `file`; one that is here already (in `known`) gets a new id. Throws an Error that says what is wrong. */
export async function importFile(file, known) {
  if (file.size > LARGEST) throw new Error("larger than 64 MiB");
  const value = parse(await file.text());
  if (value?.kind !== KIND || !Array.isArray(value.conversations)) throw new Error("not an export of this page");
  return value.conversations.map((one, index) => {
    const conversation = numbered(one, index);
    if (known.has(conversation.id)) conversation.id = newId();
    return conversation;
  });
}

function numbered(value, index) {
  try {
    return Conversation.fromJSON(value);
  } catch (error) {
    throw new Error(`conversation ${index + 1}: ${error.message}`);
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`not JSON: ${error.message}`);
  }
}
