from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ToHead(_message.Message):
    __slots__ = ("id", "hello", "create", "set_up", "built", "describe", "watch", "kill")
    ID_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    SET_UP_FIELD_NUMBER: _ClassVar[int]
    BUILT_FIELD_NUMBER: _ClassVar[int]
    DESCRIBE_FIELD_NUMBER: _ClassVar[int]
    WATCH_FIELD_NUMBER: _ClassVar[int]
    KILL_FIELD_NUMBER: _ClassVar[int]
    id: int
    hello: Hello
    create: Create
    set_up: SetUp
    built: Built
    describe: Describe
    watch: Watch
    kill: Kill
    def __init__(self, id: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., create: _Optional[_Union[Create, _Mapping]] = ..., set_up: _Optional[_Union[SetUp, _Mapping]] = ..., built: _Optional[_Union[Built, _Mapping]] = ..., describe: _Optional[_Union[Describe, _Mapping]] = ..., watch: _Optional[_Union[Watch, _Mapping]] = ..., kill: _Optional[_Union[Kill, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("actor", "pid")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    actor: str
    pid: int
    def __init__(self, actor: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class Create(_message.Message):
    __slots__ = ("actor", "class_name", "name", "num_cpus", "num_gpus", "resources", "max_concurrency", "env_vars")
    class ResourcesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class EnvVarsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_CPUS_FIELD_NUMBER: _ClassVar[int]
    NUM_GPUS_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    ENV_VARS_FIELD_NUMBER: _ClassVar[int]
    actor: str
    class_name: str
    name: str
    num_cpus: float
    num_gpus: float
    resources: _containers.ScalarMap[str, float]
    max_concurrency: int
    env_vars: _containers.ScalarMap[str, str]
    def __init__(self, actor: _Optional[str] = ..., class_name: _Optional[str] = ..., name: _Optional[str] = ..., num_cpus: _Optional[float] = ..., num_gpus: _Optional[float] = ..., resources: _Optional[_Mapping[str, float]] = ..., max_concurrency: _Optional[int] = ..., env_vars: _Optional[_Mapping[str, str]] = ...) -> None: ...

class SetUp(_message.Message):
    __slots__ = ("actor", "payload", "values", "failure")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    actor: str
    payload: bytes
    values: _containers.RepeatedScalarFieldContainer[bytes]
    failure: bytes
    def __init__(self, actor: _Optional[str] = ..., payload: _Optional[bytes] = ..., values: _Optional[_Iterable[bytes]] = ..., failure: _Optional[bytes] = ...) -> None: ...

class Built(_message.Message):
    __slots__ = ("failure",)
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    failure: bytes
    def __init__(self, failure: _Optional[bytes] = ...) -> None: ...

class Describe(_message.Message):
    __slots__ = ("actors",)
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    actors: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, actors: _Optional[_Iterable[str]] = ...) -> None: ...

class Watch(_message.Message):
    __slots__ = ("actor",)
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    actor: str
    def __init__(self, actor: _Optional[str] = ...) -> None: ...

class Kill(_message.Message):
    __slots__ = ("actor",)
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    actor: str
    def __init__(self, actor: _Optional[str] = ...) -> None: ...

class FromHead(_message.Message):
    __slots__ = ("id", "done", "refused", "description", "construct", "death", "release")
    ID_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    CONSTRUCT_FIELD_NUMBER: _ClassVar[int]
    DEATH_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    id: int
    done: Done
    refused: str
    description: Description
    construct: Construct
    death: Death
    release: Release
    def __init__(self, id: _Optional[int] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., refused: _Optional[str] = ..., description: _Optional[_Union[Description, _Mapping]] = ..., construct: _Optional[_Union[Construct, _Mapping]] = ..., death: _Optional[_Union[Death, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Done(_message.Message):
    __slots__ = ("label",)
    LABEL_FIELD_NUMBER: _ClassVar[int]
    label: str
    def __init__(self, label: _Optional[str] = ...) -> None: ...

class Description(_message.Message):
    __slots__ = ("actors",)
    ACTORS_FIELD_NUMBER: _ClassVar[int]
    actors: _containers.RepeatedCompositeFieldContainer[Actor]
    def __init__(self, actors: _Optional[_Iterable[_Union[Actor, _Mapping]]] = ...) -> None: ...

class Actor(_message.Message):
    __slots__ = ("actor", "label", "pid", "gpus", "max_concurrency", "death")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    DEATH_FIELD_NUMBER: _ClassVar[int]
    actor: str
    label: str
    pid: int
    gpus: _containers.RepeatedScalarFieldContainer[int]
    max_concurrency: int
    death: Death
    def __init__(self, actor: _Optional[str] = ..., label: _Optional[str] = ..., pid: _Optional[int] = ..., gpus: _Optional[_Iterable[int]] = ..., max_concurrency: _Optional[int] = ..., death: _Optional[_Union[Death, _Mapping]] = ...) -> None: ...

class Death(_message.Message):
    __slots__ = ("actor", "label", "pid", "reason", "cause")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    actor: str
    label: str
    pid: int
    reason: str
    cause: bytes
    def __init__(self, actor: _Optional[str] = ..., label: _Optional[str] = ..., pid: _Optional[int] = ..., reason: _Optional[str] = ..., cause: _Optional[bytes] = ...) -> None: ...

class Construct(_message.Message):
    __slots__ = ("label", "max_concurrency", "payload", "values")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    label: str
    max_concurrency: int
    payload: bytes
    values: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, label: _Optional[str] = ..., max_concurrency: _Optional[int] = ..., payload: _Optional[bytes] = ..., values: _Optional[_Iterable[bytes]] = ...) -> None: ...

class CallRequest(_message.Message):
    __slots__ = ("id", "kind", "method", "payload", "values", "num_returns")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    NUM_RETURNS_FIELD_NUMBER: _ClassVar[int]
    id: int
    kind: int
    method: str
    payload: bytes
    values: _containers.RepeatedScalarFieldContainer[bytes]
    num_returns: int
    def __init__(self, id: _Optional[int] = ..., kind: _Optional[int] = ..., method: _Optional[str] = ..., payload: _Optional[bytes] = ..., values: _Optional[_Iterable[bytes]] = ..., num_returns: _Optional[int] = ...) -> None: ...

class CallReply(_message.Message):
    __slots__ = ("id", "failed", "last", "values")
    ID_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    id: int
    failed: bool
    last: bool
    values: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, id: _Optional[int] = ..., failed: bool = ..., last: bool = ..., values: _Optional[_Iterable[bytes]] = ...) -> None: ...
