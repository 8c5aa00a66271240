"""Values of any wire struct, drawn from its type: a new field or message is covered without a line here."""

from __future__ import annotations

from typing import Any

import msgspec.inspect as mi
from hypothesis import strategies as st

from broker.wire import messages as m
from broker.wire.jobspec import JOB_ID_PATTERN

_MAX_ITEMS = 3
_MAX_TEXT = 40
#: What a struct checks of its fields beyond their types.
_CHECKED = {
    m.Submission: {"webhook": st.from_regex(rf"[!-~]{{0,{_MAX_TEXT}}}", fullmatch=True)},
    m.Submit: {"job_id": st.from_regex(JOB_ID_PATTERN, fullmatch=True)},
}


def values(kind: mi.Type) -> st.SearchStrategy[Any]:
    """Values that the type and its constraints allow."""
    match kind:
        case mi.BoolType():
            return st.booleans()
        case mi.NoneType():
            return st.none()
        case mi.IntType():
            low = -(2**63) if kind.ge is None else kind.ge
            return st.integers(low, 2**63 - 1 if kind.le is None else kind.le)
        case mi.FloatType():
            low = kind.ge if kind.ge is not None else kind.gt
            return st.floats(low, kind.le, allow_nan=False, allow_infinity=False, exclude_min=kind.gt is not None)
        case mi.StrType():
            return _texts(kind)
        case mi.BytesType():
            return st.binary(max_size=_MAX_TEXT)
        case mi.LiteralType():
            return st.sampled_from(kind.values)
        case mi.EnumType():
            return st.sampled_from(list(kind.cls))
        case mi.ListType():
            return st.lists(values(kind.item_type), max_size=_MAX_ITEMS)
        case mi.VarTupleType():
            return st.lists(values(kind.item_type), max_size=_MAX_ITEMS).map(tuple)
        case mi.DictType():
            return st.dictionaries(values(kind.key_type), values(kind.value_type), max_size=_MAX_ITEMS)
        case mi.UnionType():
            return st.one_of([values(part) for part in kind.types])
        case mi.Metadata():
            return values(kind.type)
        case mi.StructType():
            return structs(kind.cls)
    raise AssertionError(f"no strategy for {kind}")


def _texts(kind: mi.StrType) -> st.SearchStrategy[str]:
    if kind.pattern is not None:
        return st.from_regex(kind.pattern, fullmatch=True)
    return st.text(min_size=kind.min_length or 0, max_size=min(_MAX_TEXT, kind.max_length or _MAX_TEXT))


def structs(cls: type) -> st.SearchStrategy[Any]:
    """Instances of a struct with every field drawn, but for the protocol version."""
    info = mi.type_info(cls)
    assert isinstance(info, mi.StructType)
    fields = {field.name: values(field.type) for field in info.fields if field.name != "v"} | _CHECKED.get(cls, {})
    return st.fixed_dictionaries(fields).map(lambda given: cls(**given))
