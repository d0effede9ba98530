"""The requests: OpenAI's fields, and vLLM's names for what OpenAI does not have. Fields not named here are ignored."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

Schema = dict[str, Any]
_TEXT = {"type": "string", "minLength": 1}
_ID = {"type": "integer", "minimum": 0}
_WIDEST_INT = 2**63 - 1


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _WIDEST_INT


def _prompt(value: Any) -> Any:
    """One or more prompts, as texts or as token ids."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value) or all(_is_id(item) for item in value):
            return value
        if all(isinstance(item, list) and item and all(_is_id(id) for id in item) for item in value):
            return value
    raise ValueError("expected a string, a list of strings, a list of token ids, or a list of such lists")


def _stop(value: Any) -> Any:
    texts = [value] if isinstance(value, str) else value
    if texts is not None and not (isinstance(texts, list) and all(isinstance(text, str) and text for text in texts)):
        raise ValueError("expected a string or a list of strings, none of them empty")
    return texts


def _content(value: Any) -> Any:
    """A text, or parts of type text, which are joined."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("expected a string or a list of text parts")
    return "".join(_part(part, index) for index, part in enumerate(value))


def _part(part: Any, index: int) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return str(part["refusal"])
    if kind in ("image_url", "input_audio", "file", "video_url", "audio_url"):
        raise ValueError(f"part {index} is of type {kind}: this model reads text only")
    raise ValueError(f'part {index}: expected {{"type": "text", "text": ...}}')


def _tool_choice(value: Any) -> Any:
    """ "auto", "none", "required", or the name of a function in a list of one."""
    if value in (None, "auto", "none", "required"):
        return value
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return [function["name"]]
    raise ValueError('expected "auto", "none", "required" or {"type": "function", "function": {"name": ...}}')


Prompt = Annotated[
    Any,
    AfterValidator(_prompt),
    WithJsonSchema({"anyOf": [{"type": "string"}, _list_of(_TEXT), _list_of(_ID), _list_of(_list_of(_ID))]}),
]
Stop = Annotated[Any, AfterValidator(_stop), WithJsonSchema({"anyOf": [_TEXT, _list_of(_TEXT), {"type": "null"}]})]
Content = Annotated[
    Any,
    AfterValidator(_content),
    WithJsonSchema({
        "anyOf": [
            {"type": "string"},
            _list_of({
                "type": "object",
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "required": ["type", "text"],
            }),
            {"type": "null"},
        ]
    }),
]  # fmt: skip
ToolChoice = Annotated[
    Any,
    AfterValidator(_tool_choice),
    WithJsonSchema({"anyOf": [{"enum": ["auto", "none", "required", None]}, {"type": "object"}]}),
]


class Fields(BaseModel):
    """Unknown fields are ignored, since clients send many; those in ``unsupported`` are refused unless null."""

    model_config = ConfigDict(extra="ignore")
    unsupported: ClassVar[dict[str, str]] = {}
    """Fields that would change the answer if we had them, with what to do instead."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, value: Any) -> Any:
        for name, instead in cls.unsupported.items():
            if isinstance(value, dict) and value.get(name) not in (None, False, [], {}):
                raise ValueError(f"{name} is not supported" + (f": {instead}" if instead else ""))
        return value


class StreamOptions(Fields):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    """vLLM's extension: the usage so far in every chunk."""


class JsonSchema(Fields):
    name: str = ""
    definition: dict[str, Any] | bool = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class ResponseFormat(Fields):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("type json_schema needs json_schema")
        return self


class StructuredOutputs(Fields):
    """vLLM's extension: one of the two."""

    unsupported = {"choice": "use regex", "grammar": "use regex or json"}
    definition: dict[str, Any] | None = Field(default=None, alias="json")
    regex: str | None = None


_UNSUPPORTED = {
    **dict.fromkeys(
        ("guided_json", "guided_regex", "guided_choice", "guided_grammar"), "use response_format or structured_outputs"
    ),
    "include_stop_str_in_output": "", "allowed_token_ids": "use logit_bias", "bad_words": "use logit_bias",
    "truncate_prompt_tokens": "", "prompt_logprobs": "use completions with echo and logprobs",
    "logits_processors": "", "return_token_ids": "use logprobs", "return_tokens_as_token_ids": "use logprobs",
    "use_beam_search": "ask for n and choose",
}  # fmt: skip
"""Of vLLM's fields, those that would change the answer."""


class SamplingFields(Fields):
    """What completions and chats have in common. None: the server's default."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=0, le=_WIDEST_INT)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=_WIDEST_INT)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: int | None = Field(None, ge=-_WIDEST_INT - 1, le=_WIDEST_INT)
    n: int | None = Field(None, ge=1, le=_WIDEST_INT)
    stop: Stop = None
    min_tokens: int | None = Field(None, ge=0, le=_WIDEST_INT)
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    cache_salt: str | None = Field(None, max_length=256)
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @model_validator(mode="after")
    def _options_belong_to_streams(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        return self


class CompletionRequest(SamplingFields):
    unsupported = {"suffix": "", "prompt_embeds": "", **_UNSUPPORTED}
    prompt: Prompt
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=5)
    best_of: int | None = None

    @model_validator(mode="after")
    def _no_best_of(self) -> CompletionRequest:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of is not supported: ask for n and choose")
        return self


class CalledFunction(Fields):
    name: str
    arguments: str


class ToolCall(Fields):
    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Fields):
    unsupported = {"audio": "", "function_call": "use tool_calls"}
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError(f"a {self.role} message needs content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"a {self.role} message cannot have tool_calls")
        return self


class Function(Fields):
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Fields):
    type: Literal["function"]
    function: Function


class ChatRequest(SamplingFields):
    unsupported = {
        "functions": "use tools", "function_call": "use tool_choice", "audio": "", "prediction": "",
        "web_search_options": "", "continue_final_message": "", "chat_template": "", "chat_template_kwargs": "",
        "documents": "", "echo": "", "best_of": "ask for n and choose", **_UNSUPPORTED,
    }  # fmt: skip
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=0, le=_WIDEST_INT)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise ValueError("tool_choice needs tools")
        return self


class TokenizeRequest(Fields):
    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("expected either prompt or messages")
        return self


class DetokenizeRequest(Fields):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, le=_WIDEST_INT)]]
