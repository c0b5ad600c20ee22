import assert from "node:assert/strict";
import { FormatError } from "../core/errors.ts";
import { findChatTemplate, renderChat, specialTokensOf } from "./chat_template.ts";

const CHATML = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

Deno.test("renderChat() applies the template to messages, special tokens and the generation prompt", () => {
  const messages = [{ role: "system", content: "Be brief." }, { role: "user", content: "Hi" }] as const;
  const specialTokens = specialTokensOf({ eos_token: { content: "</s>" }, model_max_length: 5 });
  assert.equal(
    renderChat(CHATML, messages, { specialTokens }),
    "<|system|>Be brief.</s><|user|>Hi</s><|assistant|>",
  );
  assert.equal(
    renderChat(CHATML, messages.slice(1), { specialTokens, addGenerationPrompt: false }),
    "<|user|>Hi</s>",
  );
});

Deno.test("renderChat() knows the functions that templates call", () => {
  assert.match(renderChat("{{ strftime_now('%d %b %Y') }}", []), /^\d\d [A-Z][a-z]{2} \d{4}$/);
  assert.throws(
    () => renderChat("{{ raise_exception('no system message') }}", []),
    (error: Error) => error instanceof FormatError && /no system message/.test((error.cause as Error).message),
  );
});

Deno.test("renderChat() refuses a malformed template", () => {
  assert.throws(() => renderChat("{% for %}", []), /Cannot apply the chat template/);
});

Deno.test("findChatTemplate() prefers the file, then the configuration's string, then its default", () => {
  assert.equal(findChatTemplate("file", { chat_template: "config" }), "file");
  assert.equal(findChatTemplate(undefined, { chat_template: "config" }), "config");
  const named = [{ name: "tool_use", template: "tools" }, { name: "default", template: "plain" }];
  assert.equal(findChatTemplate(undefined, { chat_template: named }), "plain");
  assert.equal(findChatTemplate(undefined, {}), undefined);
  assert.equal(findChatTemplate(undefined, undefined), undefined);
});
