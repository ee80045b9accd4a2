"""The sections of a rules file as models: which keys there are, and what each may be.

What a condition or an action means is not checked here but where it is built (``reading``); a value may hold
``${name}`` until its rule is made for a template (``templates``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from swmld.rules.kinds import Kind, parse
from swmld.values import FALSE_WORDS, Flag, Parser, count, duration, either, expected

MAX_ID = 200
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]*")
_FROZEN = ConfigDict(frozen=True, extra="forbid", validate_default=False)


def _identifier(given: Any) -> str:
    if isinstance(given, str) and len(given) <= MAX_ID and _ID.fullmatch(given):
        return given
    raise expected("a name of letters, digits and _ . : / -", given)


def _line(given: Any) -> str:
    if isinstance(given, str) and len(given) <= 4096:
        return given
    raise expected("a text of at most 4096 characters", given)


def _share(given: Any) -> float:
    """A part of 1: ``0.8`` or ``80%``."""
    text = given.strip() if isinstance(given, str) else given
    try:
        percent = isinstance(text, str) and text.endswith("%")
        value = float(parse(Kind.PERCENT, text)) / 100 if percent else float(parse(Kind.NUMBER, text))  # type: ignore[arg-type]
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise expected("a share from 0 to 1, such as 0.5 or 50%", given)
    return value


def _weight(given: Any) -> float:
    """As a share; what is not 0 is at least 0.001, far above the rounding of sums."""
    value = _share(given)
    if 0 < value < 0.001:
        raise expected("0, or a share from 0.001 to 1", given)
    return value


def _list(given: Any) -> list[Any]:
    if isinstance(given, list):
        return given
    raise expected("a list", given)


def _tests(given: Any) -> list[Any]:
    try:
        return _list(given)
    except ValueError as error:
        if isinstance(given, str):
            raise ValueError(f"{error}; a single expression stands under condition") from None
        if isinstance(given, dict):
            raise ValueError(f"{error}; each condition begins with '- '") from None
        raise


def _mapping(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if isinstance(given, dict):
        return given
    raise expected("keys with values", given)


_ID_SCHEMA = {"type": "string", "maxLength": MAX_ID, "pattern": f"^{_ID.pattern}$"}
_SHARE_SCHEMA = either({"type": "number", "minimum": 0, "maximum": 1}, r"^\s*[0-9.eE+-]+\s*%?\s*$")

Identifier = Annotated[str, Parser(_identifier, schema=_ID_SCHEMA)]
Line = Annotated[str, Parser(_line, schema={"type": ["string", "number", "boolean"], "maxLength": 4096})]
Share = Annotated[float, Parser(_share, schema=_SHARE_SCHEMA)]
Weight = Annotated[float, Parser(_weight, schema=_SHARE_SCHEMA)]
Items = Annotated[list[Any], Parser(_list, schema={"type": "array"})]
Tests = Annotated[list[Any], Parser(_tests, schema={"type": "array"})]
Mapping = Annotated[dict[str, Any], Parser(_mapping, schema={"type": ["object", "null"]})]


class ConditionModel(BaseModel):
    """One test. ``operator`` may be left out: equals, or glob for ``file_pattern``, or what a ``value`` such
    as ">= 8" begins with."""

    model_config = _FROZEN

    type: Line = Field(
        description="file_context, access_pattern, workload_context, system_context, file_pattern."
    )
    property: Line = Field(description="Name of a property of that type.")
    operator: Line | None = Field(default=None, description="How the property is compared.")
    value: Any = Field(default=None, description="What it is compared with.")
    weight: Weight | None = Field(default=None, description="How much the condition counts; default 1.")


class ActionModel(BaseModel):
    model_config = _FROZEN

    type: Line = Field(description="Name of an action.")
    target: Line = Field(default="file", description="What it is done to.")
    parameters: Mapping = Field(default_factory=dict, description="Its parameters.")


class RuleModel(BaseModel):
    model_config = _FROZEN

    id: Identifier = Field(description="Name that templates, frameworks and profiles use; one of its kind.")
    name: Line = Field(default="", description="Name for people.")
    description: Line = Field(default="", description="What the rule is for.")
    priority: Annotated[int, count(-1000, 1000)] = Field(
        default=0, description="Of two rules that disagree the one with more wins."
    )
    enabled: Flag = Field(default=True, description="Whether the rule is used.")
    conditions: Tests | None = Field(
        default=None, description="When it applies: tests, groups (any, all, not) and expressions."
    )
    condition: Line | None = Field(default=None, description="The same as one expression.")
    threshold: Share = Field(
        default=1.0,
        description="Weighted share of true conditions from which the rule applies; default: all.",
    )
    actions: Items = Field(description="What is done.")
    cool_down: Annotated[float, duration(0, 86400)] = Field(
        default=0.0, description="Time in which the rule applies once at most to the same file."
    )
    parameters: Mapping = Field(
        default_factory=dict, description="Values of ${name} in the rule, where no template gives others."
    )


class TemplateModel(BaseModel):
    model_config = _FROZEN

    id: Identifier = Field(description="Name of the template.")
    name: Line = Field(default="", description="Name for people.")
    description: Line = Field(default="", description="What the template is for.")
    category: Line = Field(default="", description="training, inference or any other word.")
    enabled: Flag = Field(default=True, description="Whether its rules are used.")
    rules: Items = Field(description="Names of rules.")
    parameters: Mapping = Field(default_factory=dict, description="Values of ${name} in these rules.")


class FrameworkModel(BaseModel):
    """Its rules and templates apply to files and processes of the framework alone."""

    model_config = _FROZEN

    enabled: Flag = Field(default=True, description="Whether its rules and templates are used.")
    rules: Items = Field(default_factory=list, description="Names of rules.")
    templates: Items = Field(default_factory=list, description="Names of templates.")


class ProfileModel(BaseModel):
    """Its rules and templates apply on hosts that meet all conditions."""

    model_config = _FROZEN

    description: Line = Field(default="", description="Which hosts are meant.")
    enabled: Flag = Field(default=True, description="Whether the profile is used.")
    conditions: Tests = Field(
        description="Tests, groups, expressions, or properties with values: gpu_count: '>= 8'."
    )
    optimizations: Items = Field(description="Names of rules and templates.")


DAEMON = frozenset({
    "mount", "source", "cache_dir", "cache_size", "free_floor", "chunk_size", "read_only",
    "passthrough", "native", "fuse_uring", "check", "check_interval", "metadata_timeout", "paths",
    "engine", "fetch_parallel", "prefetch_parallel", "sub_read", "fetch_timeout", "source_wait",
    "source_grace", "write", "staging_size", "hedge", "readahead_max",
    "neighbours", "neighbours_max_files", "follow", "rules", "environment", "probe", "probe_rate",
    "state_dir", "metrics_address", "run_dir", "log_level", "log_format", "plugins", "use_plugins",
})  # fmt: skip
"""Keys of the daemon's own settings, which may stand in the same files: at the top, in ``settings`` and in an
environment. They mean nothing to rules. A test holds them to ``config.models.Settings``."""

SECTIONS = ("rules", "templates", "frameworks", "environments", "hardware_profiles", "settings")


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter with a meaning of its own: in ``settings``, an environment or a template it may stand even
    if no rule uses it."""

    name: str
    kind: Kind
    description: str
    words: tuple[str, ...] = ()

    def check(self, given: Any) -> None:
        """Raises ValueError with what was expected."""
        if given is None:
            raise expected("a value", given)
        parse(self.kind, given, self.words)


DONE = {"debug": (), "metrics_collection": FALSE_WORDS, "monitoring": ("off", "basic")}
"""Settings that act by themselves or ask for what is always done, but for these words."""

SETTINGS: dict[str, Setting] = {
    entry.name: entry
    for entry in (
        Setting("optimization_level", Kind.STRING, "How much is done for speed.",
                ("basic", "adaptive", "latency", "maximum")),
        Setting("monitoring", Kind.STRING, "How much is counted: always all of it.",
                ("off", "basic", "comprehensive")),
        Setting("metrics_collection", Kind.BOOL, "Count what each rule brings: that is always done."),
        Setting("resource_monitoring", Kind.BOOL, "Watch the host's resources."),
        Setting("debug", Kind.BOOL, "Log each decision."),
        Setting("fault_tolerance", Kind.BOOL, "Prefer what survives a failure."),
        Setting("batch_processing", Kind.BOOL, "Prefer throughput to latency."),
        Setting("nodes", Kind.NUMBER, "Hosts of the job."),
        Setting("gpu_per_node", Kind.NUMBER, "GPUs of each host."),
        Setting("communication_backend", Kind.STRING, "How the job's processes talk.",
                ("nccl", "gloo", "mpi")),
    )
}  # fmt: skip
