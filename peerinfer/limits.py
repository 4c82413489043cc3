"""Every limit of the protocols, with its reason. A peer may rely on these; docs/PROTOCOL.md lists them.

Sizes are bytes, times are seconds. Limits that an owner may choose live in `config.py`.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- one message on a stream -------------------------------------------------------------------------------------
HEADER_BYTES_MAX = 1 * MIB
"""A header holds names and numbers only; 1,024 tasks with their attempts take about 20 kB."""

BODY_BYTES_MAX = 8 * MIB
"""One body is held in memory at each end. Two frames in flight per device bound a stream to 16 MiB each way."""

NAME_CHARS_MAX = 256
"""Names of inputs, outputs, nodes and devices."""

REASON_CHARS_MAX = 500
"""A reason is one line for a person."""

TENSOR_RANK_MAX = 16
TENSORS_MAX = 64
"""Inputs or outputs of one model."""

MODEL_BYTES_MAX = 2 * GIB - 1
"""Protobuf holds no more in one message, so nothing larger is a model; nobody fetches it to find that out."""

STRING_SLOT_BYTES_MIN = 8
STRING_SLOT_BYTES_MAX = 1 * MIB
"""What one element of a tensor of strings takes at most. All elements take what the longest does, so that a long one among
many short ones costs all of their bytes; texts that are longer are documents, to be cut before a model reads them."""

# --- frames ------------------------------------------------------------------------------------------------------
FRAME_TASKS_MAX = 1024
"""Beyond a few hundred tasks a frame gains no speed (measured: 256 carries 115,000 small tasks/s)."""

FRAME_SECONDS_TARGET = 0.2
"""A frame holds about this much of the worker's time: long against a round trip, short against a straggler."""

FRAMES_IN_FLIGHT_PER_DEVICE = 2
"""One computes while the next travels."""

WINDOW_FRAMES_MAX = 64
"""The most frames that a worker may let one coordinator have in flight."""

INLINE_BYTES_MAX = 4 * MIB
"""A task whose inputs are larger than this travels as a blob."""

RELAYED_FRAME_BYTES_MAX = 256 * KIB
"""Inputs of one frame to a worker behind a relay, unless a single task is larger: the relay lends its line, and others wait
behind each frame."""

FRAME_BLOB_BYTES_MAX = 256 * MIB
"""Inputs or outputs of one frame that travel as a blob: each end holds them in memory once."""

EXECUTIONS_MAX = 16
"""Sizes of batches in which the tasks of one frame ran. A frame is cut into equal parts and what is left over."""

KEPT_FRAMES_MAX = 256
KEPT_RESULTS_BYTES_MAX = 64 * MIB
"""Answered frames, and their outputs, that a worker keeps for a job's next coordinator; the newest ones. What is older has
long been written down."""

# --- work streams ------------------------------------------------------------------------------------------------
TASK_TIMEOUT_MAX_S = 86_400.0
"""No task may take longer than a day."""

COORDINATORS_MAX = 16
"""Work streams that a volunteer serves at once."""

HELLO_TIMEOUT_S = 10.0
KEEPALIVE_S = 1.0
"""Sent this often while frames are in flight."""

KEEPALIVE_IDLE_S = 15.0
SILENCE_MAX_S = 5.0
"""With frames in flight, a peer that said nothing for this long is lost."""

SILENCE_IDLE_MAX_S = 45.0
WRITE_TIMEOUT_S = 30.0
WRITE_SLICE_BYTES = 1 * MIB
"""A peer that does not drain so much in this time is lost. Larger messages have it for each such part: a line may be
slow, or its owner's rate low, and eight peers share it."""

# --- blobs -------------------------------------------------------------------------------------------------------
CHUNK_BYTES = 1 * MIB
BLOB_BYTES_MAX = 16 * GIB
"""16,384 chunk hashes of 32 bytes make a manifest of 512 KiB, which fits one header."""

BLOB_CHUNKS_MAX = BLOB_BYTES_MAX // CHUNK_BYTES
BLOB_OTHERS_MAX = 16
"""Peers that a provider names as further ones. They are only ever asked, never believed."""

BLOB_STREAMS_PER_PEER_MAX = 4
BLOB_STREAMS_MAX = 32
"""Blob streams served at once. Each holds about three chunks in memory, so all of them under 100 MiB."""

BLOB_CHUNKS_PER_REQUEST_MAX = 8
"""One request is worth 8 MiB: long against a round trip, short enough to be given to someone else."""

BLOB_PROVIDERS_MAX = 8
"""Peers that one blob is fetched from at once; further ones stand by."""

BLOB_PATIENCE_S = 2.0
"""What a provider has not sent for this long is also asked of one that has nothing to do."""

BLOB_STALL_S = 30.0
"""A provider that sent no whole chunk for this long is given up: slower than 280 kbit/s is no help."""

BLOB_PARTS_STALL_S = 5.0
"""Where nobody is left who has the whole blob, a provider that got no further part of it for this long is given up."""

BLOB_IDLE_S = 60.0
"""A blob stream on which nothing is asked for this long is closed by the side that serves."""

# --- jobs --------------------------------------------------------------------------------------------------------
JOB_TASKS_MAX = 10_000_000
JOBS_MAX = 1000
"""Jobs that a coordinator holds at once."""

OPEN_TASKS_MAX = 2 * JOB_TASKS_MAX
"""Tasks without a final result that a coordinator holds at once, all jobs together; each takes memory until it is done."""

JOBS_KEPT_MAX = 1000
"""Jobs that a node remembers, outputs included; the oldest ended ones go first, and this node's own last. Their spools are
what fills a disk."""

RESULTS_FOR_OTHERS_BYTES_MAX = 8 * GIB
"""On the disk of one elector, for all other nodes' jobs together. Past it the results of the job that ended first go, then
the next; when only jobs that are not over are left, further records are refused."""

RESULTS_KEPT_S = 7 * 86400.0
"""An elector keeps results and journal of another node's job so long after its end. The results go earlier, once the
submitter has them at home."""

JOB_UNLED_MAX_S = 30 * 86400.0
"""A job that nobody has coordinated for so long, as an elector sees it, is given up there: its submitter is gone, or its
committee."""

ATTEMPT_TIMEOUT_MIN_S = 5.0
ATTEMPT_TIMEOUT_MAX_S = 3600.0

# --- members -----------------------------------------------------------------------------------------------------
ADVERTS_PER_MESSAGE_MAX = 256
PEERS_REMEMBERED_MAX = 4096
"""On disk, the ones seen last."""

MEMBERS_MAX = 512
"""Peers in the membership table. A larger swarm is known by a sample of it, and a connection is what one needs anyway."""

NEWS_PER_MESSAGE_MAX = 16
"""About 1 kB: news travels in one packet with a probe."""

DIGEST_PEERS_MAX = 256
PAGE_PEERS_MAX = 64
"""About 4 kB of a table: a newcomer to a swarm of hundreds turns eight pages."""
ADVERTS_HEARD_PER_S = 20.0
"""New adverts that one peer may tell in the long run; each costs a signature check of 0.1 ms. Further ones are ignored."""

ADVERTS_HEARD_BURST = 1024
ADVERTS_HEARD_IN_ALL_PER_S = 100.0
ADVERTS_HEARD_IN_ALL_BURST = 4096
"""Of all peers about others together: whoever connects anew, or under another name, has a burst of its own each time.
What a neighbour says of itself is always heard."""

ADVERT_BYTES_MAX = 8 * KIB
"""One signed advert. Sixteen addresses and a dozen devices take about 3 kB."""

DEVICES_PER_NODE_MAX = 64
MODELS_PER_ADVERT_MAX = 64
ADDRESSES_PER_PEER_MAX = 16
CLOCK_SKEW_MAX_S = 600.0
"""An advert from further in the future than this is refused: its sender's clock is wrong, or it lies."""

MANIFEST_SKEW_MAX_S = 86400.0
"""An elector takes no first seat of a job that is dated further from its own time than this: how long results and journals
are kept goes by that date. An hour, by a clock that was set to the wrong zone, does no harm."""

DIAL_BACK_PORTS_MAX = 4
STATEMENT_BYTES_MAX = 4 * KIB
"""One signed statement that spreads. An attestation about thirty peers takes about 1.5 kB."""

ATTESTED_MAX = 30
"""Peers that one attestation speaks of."""

FAULT_RECEIPT_BYTES_MAX = 3500
"""A receipt of about four hundred tasks; deflated, of the largest frame whose tasks follow each other."""

RECEIPT_BYTES_MAX = 16 * KIB
"""A receipt of `FRAME_TASKS_MAX` tasks, which takes 9 kB, before it was deflated."""

EVIDENCE_BYTES_MAX = 8 * MIB
"""Inputs and outputs of the frame that a proof is about: who wants to check it fetches them."""

EVIDENCE_LARGE_BYTES_MAX = 32 * MIB
"""The same of a frame that was too large for a message, and came as blobs."""

FOUND_PER_MESSAGE_MAX = 8
SEARCH_WORDS_MAX = 4
STATEMENTS_PER_MESSAGE_MAX = 16
STATEMENTS_NAMED_MAX = 256
"""By their digests, in one message of 4.6 kB."""

INVITE_CHARS_MAX = 4096
INVITE_PEERS_MAX = 8
"""Members that one invite names. One that answers is enough; a string of more than a few hundred characters is a pain."""

# --- lease and journal -------------------------------------------------------------------------------------------
COMMITTEE_MAX = 13
SEATS_MAX = 4096
"""Jobs that one node is an elector of at once."""

EPOCHS_MAX = 32
"""Committees that one generation of a job may have, one after the other; all changes together travel in one message."""

ELECTORS_BEFORE_MAX = 128
"""Former electors that the owner's word names; further ones are told by those who know."""

GENERATIONS_MAX = 63
"""So often an owner may name a committee anew after its quorum was lost for good; a job that needs it twice is rare."""

JOURNAL_BATCH_TASKS_MAX = 4096
"""Each batch is signed, and the signature checked by every elector: of a batch of 1,024 that was a third of its cost."""

JOURNAL_BATCH_PEERS_MAX = 1024
"""Workers that one batch names: journals of before batches of 4,096 tasks hold as many. Whoever writes names fewer."""

JOURNAL_BATCH_BYTES_MAX = 128 * KIB
"""As it is signed."""

JOURNAL_GATHER_S = 0.1
"""The first entries after a pause wait this long for more: what a new holder accepts is final soon."""

JOURNAL_COMMIT_S = 0.25
"""From one message with entries to the next, unless they would fill it or are a job's last. Each costs an elector a sync of
its disk and two to three milliseconds of its processor, as much as some four thousand entries do."""

JOURNAL_WAITING_TASKS_MAX = 4 * JOURNAL_BATCH_TASKS_MAX
"""Nor does it wait for more than these: as many full batches as go into one message, whoever computed them."""

JOURNAL_BATCHES_PER_MESSAGE_MAX = 16
"""Batches that one catch-up answer carries."""

PRIORITY_CHANGES_MAX = 256
"""Of one job: each stands in its journal for ever."""

JOURNAL_TAIL_BYTES = 4 * MIB
"""Batches that a journal keeps behind its last checkpoint, or a quarter of its register's size if that is more: what a node
holds of a journal is bounded by its job's tasks, however many batches they come in."""

JOURNAL_BATCH_OVERHEAD_BYTES = 512
"""What a batch in memory takes beside its bytes (measured: 470)."""

MILESTONES_BYTES_MAX = 256 * KIB
"""Of hand-overs and other events that a snapshot carries: the first, and the newest that fit."""

SNAPSHOT_PEERS_MAX = 4096
"""Workers that a snapshot names. A journal with more is not cut."""

SNAPSHOT_PART_BYTES = 512 * KIB
"""So much of a snapshot travels in one message."""

SNAPSHOT_COPIES_MAX = 4
"""So many times its bytes are sent of a snapshot to one elector, by its own word on how much of it is there. One that needs
more has lost it on the way again and again, or lies: it is sent one part each time that it is asked or renewed."""

REGISTERS_BYTES_MAX = 1 * GIB
"""Registers of all seats of an elector together, were all their tasks written: 53 million tasks."""

JOURNAL_MESSAGE_BYTES_MAX = 512 * KIB
"""So large may several batches in one message be together; half of a header, so that the last may be a large one."""

SEATS_GIVEN_UP_MAX = 65_536
"""Jobs of which an elector remembers that it gave up their seats, the last ones; it never takes such a seat again."""

SEATS_BYTES_MAX = 256 * MIB
"""Manifests of all seats together. One may be as large as 512 KiB, and anybody can sign one."""

TERM_ROUND_MAX = (1 << 62) - 1
"""A round near the integer's edge is refused: whoever could use it up would end all elections of the job."""

GENERATION_ROUNDS = 1 << 56
"""Rounds of one generation. Those of the next lie above all of them, so that a term alone says which one is older."""

TERM_ROUND_STEP_MAX = 1 << 32
"""A round further than this above what an elector has promised is refused, so that nobody gets near the edge: it would
take sixteen million campaigns, each written to disk, and then the owner may begin a new generation. Honest candidates go
up by one."""
