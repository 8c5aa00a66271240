"""Log actions: the subject of a log record, the name that stands first in its line.

One enum for every process: an operator can look a name up (the table in docs/operations.md is printed from it), and no two parts of the
service use one name for different things unnoticed. Records of libraries have none: there the logger's name stands in its place.
"""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    """Subject of a log record, with its meaning."""

    about: str

    def __new__(cls, name: str, about: str = "") -> Action:
        member = str.__new__(cls, name)
        member._value_ = name
        member.about = about
        return member

    # Broker
    BACKUP = "backup", "A process begins or ends to copy the journal; its file does not change meanwhile."
    LOADED = "loaded", "The journal was read: how many jobs are live."
    SERVING = "serving", "The broker listens; with its endpoints and epoch."
    STOPPING = "stopping", "The broker is stopping: it takes no new job from here on."
    STOPPED = "stopped", "The process ends."
    TRANSITION = "transition", "A job changed its state: from, to, cause, attempt, worker."
    RECORD_DELETED = "record_deleted", "The record of a final job was deleted."
    DELIVERY = "delivery", "A webhook delivery was made, or changed its state."
    SET_ASIDE = "set_aside", "A job that could not be handled waits for its operator; with the reason."
    ID_TAKEN = (
        "id_taken",
        "An id that an edge marked as fresh belongs to a job: the repeated request is looked up.",
    )
    SETTLED = "settled", "An operator released, failed or deleted a job that was set aside."
    CANCEL_NOTED = (
        "cancel_noted",
        "A job that is set aside was cancelled: the cancel takes effect when the job is released.",
    )
    CORE_FAILED = (
        "core_failed",
        "The core raised an exception; what was not committed is discarded, all else goes on.",
    )
    STIMULI = "stimuli", "The core broke a rule of its own; its last messages were written to a file, for a replay."
    STALL = "stall", "The process did not run for a while: the machine is overloaded or was suspended."
    PEER_GONE = "peer_gone", "The other end of a connection cannot be reached."
    CUT_OFF = "cut_off", "A connection was ended for what it sent, or because its key is not allowed any more."
    INVALID_MESSAGE = "invalid_message", "An invalid message was dropped."
    OVERSIZED_MESSAGE = "oversized_message", "A connection was ended in the middle of an endless message."
    HALF_OPEN = "half_open", "Connections without a finished handshake were cut."
    KEY_ALLOWED = "key_allowed", "A key was added to the list."
    KEY_REMOVED = "key_removed", "A key was taken from the list."
    KEY_REFUSED = "key_refused", "A connection with an unknown key was refused."
    BAD_KEY = "bad_key", "A file in the list of keys is not a key; the other keys count."
    KEYS_UNREAD = "keys_unread", "The list of keys cannot be read; the last one read still counts."
    CLOCK = "clock", "The wall clock was set, counts again after that, or its record cannot be read."
    DISK = (
        "disk",
        "Disk space or inodes are low, or sufficient again; or the journal's file is not the one that was opened.",
    )
    DAMAGED = "damaged", "A record in the journal is not what was written."
    LOSS = "loss", "The journal is shorter than it was, and is used all the same, as `--accept-journal-loss` says."
    REINDEX = "reindex", "An index of the journal had lost rows, and was built anew."
    MARK = "mark", "The mark beside the journal is damaged, or of another journal."
    ON_DEMAND = "on_demand", "The file of models whose jobs are taken without workers cannot be read or written."
    METRICS = "metrics", "The textfile of metrics cannot be written."
    WORKER_TRIPPED = "worker_tripped", "A worker gets no work for a while: job after job failed there."
    WORKER_RESTORED = "worker_restored", "A worker whose breaker had tripped gets work again."
    DEVICE_FAULT = "device_fault", "The device of a worker is broken: it gets no more jobs until it is restarted."
    DEPOT_FULL = "depot_full", "A worker takes no job: too many of its results wait to be sent to the depot."
    DEPOT_ROOM = "depot_room", "A worker whose results waited for the depot takes jobs again."
    DRAIN_REQUESTED = "drain_requested", "A drain of a worker was requested: it finishes its jobs and ends."
    UNDRAIN_REQUESTED = "undrain_requested", "A drain of a worker was taken back: it takes jobs again."
    # Supervisor and agents
    AGENT_STARTED = "agent_started", "The agent process of a worker was started."
    AGENT_ENDED = "agent_ended", "An agent process ended: how, and when the next starts."
    NAME_TAKEN = "name_taken", "Another process has this worker's name; registering is tried again."
    HEARTBEAT_FILE = "heartbeat_file", "The file that probes read cannot be written."
    POOL = "pool", "A launcher changes its pool of workers, or the reason why it does not."
    DEPOT = (
        "depot",
        "A file cannot be put into the depot, or not be fetched from it, and is tried again; or it answers again.",
    )
    TROUBLE = "trouble", "Loading a model fails repeatedly."
    REGISTERED = "registered", "The broker registered this worker."
    BROKER_SILENT = "broker_silent", "No message came from the broker for too long; the worker registers again."
    DRAINING = "draining", "The worker takes no more jobs and ends when it has none."
    UNDRAINED = "undrained", "The worker was draining, and takes jobs again."
    LEAVING = "leaving", "The worker ends; with the reason."
    REFUSED = "refused", "The worker refused a job and handed it back; with the reason."
    DECODE_ERROR = "decode_error", "A message of the broker, or of another machine of a group, could not be read."
    MACHINES = (
        "machines",
        "A group over several machines waits for some of them, or has them all; on the others: whether it has a place.",
    )
    ENGINE_STARTED = "engine_started", "An engine process was started."
    ENGINE_READY = "engine_ready", "The engine has its model in memory."
    ENGINE_EXITED = "engine_exited", "The engine process ended: how, and when the next starts."
    ENGINE_KILLED = "engine_killed", "The engine process was killed; with the reason."
    ENGINE_UNKILLABLE = "engine_unkillable", "A killed engine process has not ended: its worker takes no more jobs."
    SPARE_STARTED = (
        "spare_started",
        "A spare engine was started: it has an engine's imports, and replaces the engine when that ends.",
    )
    SPARE_ENDED = (
        "spare_ended",
        "There is no spare engine: it ended, or cannot be started. The next comes with the next engine that is ready.",
    )
    STRAY_ENGINE_MESSAGE = "stray_engine_message", "The engine sent a message about an unknown attempt."
    GPU_UNREAD = "gpu_unread", "The numbers of a GPU cannot be read: no management library, or it does not answer."
    GPU_XID = "gpu_xid", "The GPU's driver reports an error; with its number."
    ATTEMPT_STARTED = "attempt_started", "The engine began a job."
    ATTEMPT_FINISHED = "attempt_finished", "The files of a job are written."
    RESULT_RESUMED = (
        "result_resumed",
        "A result that waited for the depot when its agent ended is sent by the next agent, if it still counts.",
    )
    ATTEMPT_FAILED = "attempt_failed", "A job failed in the engine; with the reason."
    ATTEMPT_CANCELLED = "attempt_cancelled", "A job stopped after its cancel."
    CANCEL = "cancel", "The engine was sent a cancel; with the time after which it is killed."
    ATTEMPT_DROPPED = "attempt_dropped", "An attempt that no longer counts was abandoned."
    REMOVE_FAILED = "remove_failed", "Files of an attempt that is over could not be removed."
    # Engines
    LOAD_MODEL = "load_model", "A model is being loaded, or was: how long it took."
    LOAD_FAILED = "load_failed", "A model cannot be loaded; with the reason."
    DROP_MODEL = "drop_model", "A model was dropped from memory to make room."
    WARM_UP = (
        "warm_up",
        "A model is called once in a size of its table, which compiles what is to be compiled; with the size and its number.",
    )
    PLACE_MODEL = "place_model", "The weights of a model are moved; with the placement."
    PEAKS = "peaks", "The measured memory of jobs cannot be written to its file."
    RUN_JOB = "run_job", "A job was run: how long it took."
    CHECKPOINT = (
        "checkpoint",
        "A job continues from its last checkpoint; or the reason why one is not written, or not used.",
    )
    RUN_AGAIN = "run_again", "A job ran out of memory beside another and runs again alone."
    JOB_FAILED = "job_failed", "A job raised an exception; with its traceback."
    PREVIEW_FAILED = "preview_failed", "No preview could be made; the job goes on."
    TOKENS_NOT_COUNTED = "tokens_not_counted", "The length of a prompt could not be determined; the job goes on."
    PROTOCOL_ERROR = "protocol_error", "The agent sent an invalid message: the engine ends."
    # Edges
    ENHANCER = "enhancer", "The prompt enhancer did not answer with a prompt; with the reason."
    LISTEN = "listen", "The address that the edge listens on; a warning where it is open without keys."
    WAITING = "waiting", "What the service waits for before it is ready."
    READY = "ready", "The service takes jobs, and a worker has its model loaded."
    SUBMIT = "submit", "A job was accepted."
    CLIENT_GONE = "client_gone", "A client disconnected while it waited; its job is cancelled."
    KEYS = "keys", "The API keys were read, or cannot be."
    SAVE = "save", "A result was copied to the path that its client chose, or cannot be."
    SPOOL = "spool", "Left-over uploads were removed, or cannot be."
    TRACES = "traces", "Finished jobs could not be exported as traces, and are again in a while."
    RETENTION = "retention", "Jobs and files that are old enough were deleted, or wait until clocks agree."
    WATCH = "watch", "Events of the broker do not arrive yet."
    WEBHOOK = "webhook", "A webhook was delivered, or could not be."
