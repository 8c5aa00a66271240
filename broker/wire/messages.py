"""Every message that crosses a socket: tagged, frozen structs, one class a message, named by a verb of its sender.

On the wire a message is a msgpack array: tag, protocol version, then the fields in the order written here. New fields go at
the end, with a default. `body` is bytes that its reader decodes: the job spec in `Submit` and `Run` (opaque to the broker), and the struct
named at the field in the others. Times named `_at` are seconds since the Unix epoch on the broker's clock, those named `_s` are durations
in seconds.

`WorkerRejected` and `Rejected` are also the answers to a peer of another protocol version, in a frame that bears its version: their
required fields stay what they are.
"""

from __future__ import annotations

from broker.wire.agent_messages import Cancel as Cancel
from broker.wire.agent_messages import Cancelled as Cancelled
from broker.wire.agent_messages import Drain as Drain
from broker.wire.agent_messages import Failed as Failed
from broker.wire.agent_messages import Finished as Finished
from broker.wire.agent_messages import Goodbye as Goodbye
from broker.wire.agent_messages import Heartbeat as Heartbeat
from broker.wire.agent_messages import HeartbeatAck as HeartbeatAck
from broker.wire.agent_messages import Hello as Hello
from broker.wire.agent_messages import Identify as Identify
from broker.wire.agent_messages import Park as Park
from broker.wire.agent_messages import Refused as Refused
from broker.wire.agent_messages import Remedy as Remedy
from broker.wire.agent_messages import ResultAck as ResultAck
from broker.wire.agent_messages import Run as Run
from broker.wire.agent_messages import Undrain as Undrain
from broker.wire.agent_messages import Welcome as Welcome
from broker.wire.agent_messages import WorkerRejected as WorkerRejected
from broker.wire.bodies import Admission as Admission
from broker.wire.bodies import ClaimedDelivery as ClaimedDelivery
from broker.wire.bodies import ClassBacklog as ClassBacklog
from broker.wire.bodies import ClockStep as ClockStep
from broker.wire.bodies import DeliveryView as DeliveryView
from broker.wire.bodies import Failure as Failure
from broker.wire.bodies import HistoryEntry as HistoryEntry
from broker.wire.bodies import JobUpdate as JobUpdate
from broker.wire.bodies import JobView as JobView
from broker.wire.bodies import OnDemandModel as OnDemandModel
from broker.wire.bodies import Parking as Parking
from broker.wire.bodies import PoolView as PoolView
from broker.wire.bodies import SetAside as SetAside
from broker.wire.bodies import WorkerInfo as WorkerInfo
from broker.wire.bodies import WorkerView as WorkerView
from broker.wire.device import DeviceHealth as DeviceHealth
from broker.wire.edge_messages import Accepted as Accepted
from broker.wire.edge_messages import CancelJob as CancelJob
from broker.wire.edge_messages import CancelOutcome as CancelOutcome
from broker.wire.edge_messages import CancelReply as CancelReply
from broker.wire.edge_messages import ClaimDeliveries as ClaimDeliveries
from broker.wire.edge_messages import ControlJob as ControlJob
from broker.wire.edge_messages import ControlOutcome as ControlOutcome
from broker.wire.edge_messages import ControlReply as ControlReply
from broker.wire.edge_messages import Deliveries as Deliveries
from broker.wire.edge_messages import DeliveryDone as DeliveryDone
from broker.wire.edge_messages import DeliveryNoted as DeliveryNoted
from broker.wire.edge_messages import DrainWorker as DrainWorker
from broker.wire.edge_messages import Estimate as Estimate
from broker.wire.edge_messages import Estimated as Estimated
from broker.wire.edge_messages import Event as Event
from broker.wire.edge_messages import Follow as Follow
from broker.wire.edge_messages import ForgetJobs as ForgetJobs
from broker.wire.edge_messages import Forgotten as Forgotten
from broker.wire.edge_messages import GetJob as GetJob
from broker.wire.edge_messages import GetLoadHistory as GetLoadHistory
from broker.wire.edge_messages import GetPool as GetPool
from broker.wire.edge_messages import GetUsage as GetUsage
from broker.wire.edge_messages import JobAction as JobAction
from broker.wire.edge_messages import JobReply as JobReply
from broker.wire.edge_messages import Jobs as Jobs
from broker.wire.edge_messages import JobsDeleted as JobsDeleted
from broker.wire.edge_messages import ListJobs as ListJobs
from broker.wire.edge_messages import ListSetAside as ListSetAside
from broker.wire.edge_messages import LoadSamples as LoadSamples
from broker.wire.edge_messages import Pool as Pool
from broker.wire.edge_messages import RejectCode as RejectCode
from broker.wire.edge_messages import Rejected as Rejected
from broker.wire.edge_messages import SetAsideSettled as SetAsideSettled
from broker.wire.edge_messages import SettleSetAside as SettleSetAside
from broker.wire.edge_messages import Submit as Submit
from broker.wire.edge_messages import UndrainWorker as UndrainWorker
from broker.wire.edge_messages import Usage as Usage
from broker.wire.edge_messages import Watch as Watch
from broker.wire.edge_messages import Watching as Watching
from broker.wire.edge_messages import WorkerReply as WorkerReply
from broker.wire.failures import FailureKind as FailureKind
from broker.wire.load import LoadSample as LoadSample
from broker.wire.promises import Forecast as Forecast
from broker.wire.promises import Promise as Promise
from broker.wire.promises import PromiseWish as PromiseWish
from broker.wire.submission import Submission as Submission
from broker.wire.terms import MAX_ID as MAX_ID
from broker.wire.terms import PROTOCOL as PROTOCOL
from broker.wire.terms import Age as Age
from broker.wire.terms import Count as Count
from broker.wire.terms import DeliveryState as DeliveryState
from broker.wire.terms import DepotWait as DepotWait
from broker.wire.terms import EngineState as EngineState
from broker.wire.terms import Fence as Fence
from broker.wire.terms import Held as Held
from broker.wire.terms import Id as Id
from broker.wire.terms import JobStateName as JobStateName
from broker.wire.terms import KnownId as KnownId
from broker.wire.terms import Loading as Loading
from broker.wire.terms import Message as Message
from broker.wire.terms import Name as Name
from broker.wire.terms import ParkedName as ParkedName
from broker.wire.terms import Seconds as Seconds
from broker.wire.terms import Short as Short
from broker.wire.terms import Tenant as Tenant
from broker.wire.terms import WebhookEvent as WebhookEvent
from broker.wire.terms import WebhookUrl as WebhookUrl
from broker.wire.terms import WorkerStateName as WorkerStateName
from broker.wire.usage import UsageGroup as UsageGroup
from broker.wire.usage import UsageRow as UsageRow

FromEdge = (
    Submit
    | CancelJob
    | ControlJob
    | GetJob
    | ListJobs
    | Watch
    | Follow
    | GetPool
    | Estimate
    | ForgetJobs
    | ClaimDeliveries
    | DeliveryDone
    | DrainWorker
    | UndrainWorker
    | ListSetAside
    | SettleSetAside
    | GetUsage
    | GetLoadHistory
)
ToEdge = (
    Accepted
    | Rejected
    | JobReply
    | Jobs
    | CancelReply
    | ControlReply
    | Watching
    | Pool
    | Estimated
    | Event
    | Forgotten
    | JobsDeleted
    | Deliveries
    | DeliveryNoted
    | WorkerReply
    | SetAsideSettled
    | Usage
    | LoadSamples
)
#: Requests that take the broker much longer than others: an edge sends each in a frame of its own, so that other edges' come between.
COSTLY: frozenset[type[Message]] = frozenset((ListJobs, GetPool, GetUsage, ListSetAside, ForgetJobs, ClaimDeliveries))
FromAgent = Hello | Heartbeat | Refused | Finished | Failed | Cancelled | Goodbye
ToAgent = Welcome | Identify | WorkerRejected | Run | HeartbeatAck | Cancel | Park | Drain | Undrain | ResultAck
AgentResult = Finished | Failed | Cancelled
