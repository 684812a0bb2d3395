use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just(Bytes::new()), proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)]
}

/// Small numbers, where an integer takes one byte, as often as any.
fn integer() -> impl Strategy<Value = u64> {
    prop_oneof![0..300_u64, any::<u64>(), Just(u64::MAX)]
}

fn replicas() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(integer(), 0..5)
}

fn meta() -> impl Strategy<Value = SnapshotMeta> {
    (integer(), integer(), replicas(), replicas(), replicas(), replicas(), any::<bool>()).prop_map(
        |(index, term, voters, learners, voters_outgoing, learners_next, auto_leave)| SnapshotMeta {
            index,
            term,
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
        },
    )
}

fn entry() -> impl Strategy<Value = RaftEntry> {
    (any::<u8>(), integer(), integer(), bytes(), bytes()).prop_map(|(kind, term, index, data, context)| RaftEntry {
        kind,
        term,
        index,
        data,
        context,
    })
}

fn message() -> impl Strategy<Value = RaftMessage> {
    let numbers = proptest::array::uniform9(integer());
    let entries = proptest::collection::vec(entry(), 0..5);
    let rest = (any::<u8>(), any::<bool>(), integer(), any::<i64>(), bytes());
    (numbers, entries, proptest::option::of(meta()), rest).prop_map(|(numbers, entries, snapshot, rest)| {
        let [group, to, from, term, log_term, index, commit, commit_term, request_snapshot] = numbers;
        let (kind, reject, reject_hint, priority, context) = rest;
        RaftMessage {
            group,
            kind,
            to,
            from,
            term,
            log_term,
            index,
            entries,
            commit,
            commit_term,
            snapshot,
            request_snapshot,
            reject,
            reject_hint,
            context,
            priority,
        }
    })
}

fn forward() -> impl Strategy<Value = Forward> {
    (integer(), integer(), integer(), bytes()).prop_map(|(group, origin, sequence, command)| Forward {
        group,
        origin,
        sequence,
        command,
    })
}

fn forward_reply() -> impl Strategy<Value = ForwardReply> {
    let result = prop_oneof![
        bytes().prop_map(ForwardResult::Outcome),
        integer().prop_map(ForwardResult::NotLeader),
        Just(ForwardResult::Overloaded),
        Just(ForwardResult::DiskFull),
        Just(ForwardResult::StoreBusy),
    ];
    (integer(), integer(), integer(), result).prop_map(|(group, origin, sequence, result)| ForwardReply {
        group,
        origin,
        sequence,
        result,
    })
}

fn snapshot_part() -> impl Strategy<Value = SnapshotPart> {
    (proptest::array::uniform4(integer()), bytes(), proptest::option::of(message())).prop_map(
        |([group, transfer, offset, total_bytes], data, message)| SnapshotPart {
            group,
            transfer,
            offset,
            total_bytes,
            data,
            message: message.map(Box::new),
        },
    )
}

fn snapshot_ack() -> impl Strategy<Value = SnapshotAck> {
    (integer(), integer(), integer(), any::<bool>(), any::<bool>())
        .prop_map(|(group, transfer, next_offset, failed, done)| SnapshotAck { group, transfer, next_offset, failed, done })
}

fn beats() -> impl Strategy<Value = Vec<Beat>> {
    let beat =
        proptest::array::uniform5(integer()).prop_map(|[group, to, from, term, commit]| Beat { group, to, from, term, commit });
    proptest::collection::vec(beat, 0..20)
}

fn lease_ask() -> impl Strategy<Value = LeaseAsk> {
    (integer(), integer(), integer(), any::<bool>(), proptest::collection::vec(integer(), 0..9))
        .prop_map(|(group, origin, number, keeps_alive, ids)| LeaseAsk { group, origin, number, keeps_alive, ids })
}

fn lease_answer() -> impl Strategy<Value = LeaseAnswer> {
    let time = (integer(), integer()).prop_map(|(ttl_ms, left_ms)| LeaseTime { ttl_ms, left_ms });
    let result = prop_oneof![
        proptest::collection::vec(time, 0..9).prop_map(LeaseResult::Times),
        integer().prop_map(LeaseResult::NotLeader),
        Just(LeaseResult::Overloaded),
    ];
    (integer(), integer(), integer(), result).prop_map(|(group, origin, number, result)| LeaseAnswer {
        group,
        origin,
        number,
        result,
    })
}

fn eventual() -> impl Strategy<Value = EventualMessage> {
    (integer(), proptest::collection::vec(any::<u8>(), 0..50))
        .prop_map(|(group, message)| EventualMessage { group, message: message.into() })
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        proptest::collection::vec(message(), 0..5).prop_map(Frame::Raft),
        proptest::collection::vec(forward(), 0..5).prop_map(Frame::Forward),
        proptest::collection::vec(forward_reply(), 0..5).prop_map(Frame::ForwardReply),
        snapshot_part().prop_map(Frame::Snapshot),
        snapshot_ack().prop_map(Frame::SnapshotAck),
        (integer(), integer(), integer()).prop_map(|(group, replica, min_index)| Frame::SnapshotAsk(SnapshotAsk {
            group,
            replica,
            min_index
        })),
        beats().prop_map(Frame::Beats),
        beats().prop_map(Frame::BeatAnswers),
        proptest::collection::vec(lease_ask(), 0..5).prop_map(Frame::LeaseAsks),
        proptest::collection::vec(lease_answer(), 0..5).prop_map(Frame::LeaseAnswers),
        proptest::collection::vec(eventual(), 0..5).prop_map(Frame::Eventual),
        integer().prop_map(Frame::LogEnd),
    ]
}

fn greeting() -> impl Strategy<Value = Greeting> {
    let numbers = proptest::array::uniform5(integer());
    let hello = (numbers, 0..4_u8, any::<u16>(), any::<u16>()).prop_map(
        |([cluster, node, incarnation, start_id, log_end], lane, min_wire, max_wire)| {
            let lane = Lane::from_tag(lane).unwrap();
            Greeting::Hello(Hello { cluster, node, incarnation, start_id, log_end, lane, min_wire, max_wire })
        },
    );
    let refusal = (integer(), integer()).prop_flat_map(|(ours, theirs)| {
        let refusals = vec![
            Refusal::wrong_cluster(ours, theirs),
            Refusal::unknown_node(theirs, ours),
            Refusal::removed_node(theirs, ours),
            Refusal::older_incarnation(7, theirs, ours),
            Refusal::other_start(7, theirs),
            Refusal::older_log(7, theirs, ours),
            Refusal::wire_version((1, 2), (3, 4)),
        ];
        proptest::sample::select(refusals).prop_map(Greeting::Refusal)
    });
    prop_oneof![hello, refusal]
}

fn encoded(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    encode_frame(frame, &mut out).unwrap();
    out
}

/// A frame with this body, whatever is in it, and the checksum that goes with it.
fn sealed(kind: u8, body: &[u8]) -> BytesMut {
    let mut stream = BytesMut::new();
    stream.put_u32_le(body.len() as u32);
    stream.put_slice(&[kind, FRAME_FORMAT_VERSION, 0, 0]);
    stream.put_u32_le(crc32c::crc32c_append(crc32c::crc32c(&stream), body));
    stream.put_slice(body);
    stream
}

fn kind_tag(frame: &Frame) -> u8 {
    encoded(frame)[4]
}

/// Everything that decodes from `stream`, and how it ended.
fn decode_all(stream: &[u8]) -> (Vec<Frame>, Result<bool, DecodeError>) {
    let (mut decoder, mut received, mut frames) = (FrameDecoder::default(), BytesMut::from(stream), Vec::new());
    loop {
        match decoder.decode(&mut received) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, Ok(decoder.is_between_frames(&received))),
            Err(error) => return (frames, Err(error)),
        }
    }
}

proptest! {
    #[test]
    fn frames_survive_any_cutting_of_the_stream(
        frames in proptest::collection::vec(frame(), 1..4),
        cuts in proptest::collection::vec(1..300_usize, 1..20),
    ) {
        let mut stream = BytesMut::new();
        for frame in &frames {
            let before = stream.len();
            encode_frame(frame, &mut stream).unwrap();
            prop_assert_eq!(stream.len() - before, frame_bytes(frame).unwrap());
        }
        let (mut decoder, mut received, mut decoded) = (FrameDecoder::default(), BytesMut::new(), Vec::new());
        let mut rest = &stream[..];
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            received.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut received).unwrap() {
                decoded.push(frame);
            }
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(decoded, frames);
        prop_assert!(decoder.is_between_frames(&received));
    }

    #[test]
    fn a_truncated_frame_yields_nothing(frame in frame(), cut in any::<prop::sample::Index>()) {
        let stream = encoded(&frame);
        let length = cut.index(stream.len());
        let (frames, end) = decode_all(&stream[..length]);
        prop_assert!(frames.is_empty());
        prop_assert_eq!(end, Ok(length == 0));
    }

    #[test]
    fn a_flipped_bit_never_yields_a_frame(frame in frame(), bit in any::<prop::sample::Index>()) {
        let mut stream = encoded(&frame);
        let bit = bit.index(stream.len() * 8);
        stream[bit / 8] ^= 1 << (bit % 8);
        let (frames, end) = decode_all(&stream);
        prop_assert!(frames.is_empty());
        prop_assert_ne!(end, Ok(true));
    }

    #[test]
    fn a_damaged_body_decodes_only_to_what_encodes_to_it(
        frame in frame(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = encoded(&frame).split_off(FRAME_HEADER_BYTES).to_vec();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let stream = sealed(kind_tag(&frame), &body);
        if let (frames, Ok(_)) = decode_all(&stream) {
            prop_assert_eq!(frames.len(), 1);
            prop_assert_eq!(encoded(&frames[0]), stream);
        }
    }

    #[test]
    fn random_streams_do_no_harm(stream in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (frames, _) = decode_all(&stream);
        prop_assert!(frames.is_empty());
        let mut received = BytesMut::from(&stream[..]);
        prop_assert!(!matches!(decode_greeting(&mut received), Ok(Some(_))));
    }

    #[test]
    fn messages_round_trip_alone(message in message()) {
        let mut out = BytesMut::new();
        encode_message(&message, &mut out);
        prop_assert_eq!(out.len(), message_bytes(&message));
        prop_assert_eq!(decode_message(out.freeze()), Ok(message));
    }

    #[test]
    fn random_messages_decode_only_to_what_encodes_to_them(body in proptest::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(message) = decode_message(Bytes::from(body.clone())) {
            let mut out = BytesMut::new();
            encode_message(&message, &mut out);
            prop_assert_eq!(out, body);
        }
    }

    #[test]
    fn greetings_round_trip_and_leave_the_rest(greeting in greeting(), rest in bytes()) {
        let mut stream = BytesMut::new();
        encode_greeting(&greeting, &mut stream);
        prop_assert!(stream.len() <= MAX_GREETING_BYTES);
        for length in 0..stream.len() {
            prop_assert_eq!(decode_greeting(&mut BytesMut::from(&stream[..length])), Ok(None));
        }
        stream.extend_from_slice(&rest);
        prop_assert_eq!(decode_greeting(&mut stream), Ok(Some(greeting)));
        prop_assert_eq!(stream, rest);
    }

    #[test]
    fn a_flipped_bit_never_yields_a_greeting(greeting in greeting(), bit in any::<prop::sample::Index>()) {
        let mut stream = BytesMut::new();
        encode_greeting(&greeting, &mut stream);
        let bit = bit.index(stream.len() * 8);
        stream[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!matches!(decode_greeting(&mut stream), Ok(Some(_))));
    }

    #[test]
    fn packed_messages_keep_their_order_and_the_limit(
        messages in proptest::collection::vec(message(), 0..20),
        max_bytes in 0..3000_usize,
    ) {
        let frames = pack_messages(messages.clone(), max_bytes);
        let mut unpacked = Vec::new();
        for frame in frames {
            let bytes = frame_bytes(&frame).unwrap();
            let Frame::Raft(packed) = frame else { panic!("only Raft frames are packed") };
            prop_assert!(!packed.is_empty());
            prop_assert!(bytes <= max_bytes || packed.len() == 1);
            unpacked.extend(packed);
        }
        prop_assert_eq!(unpacked, messages);
    }
}

/// The layout is a promise to running clusters: this changes only together with the format version.
#[test]
fn the_format_stays_as_it_is() {
    let message = RaftMessage {
        group: 3,
        kind: 8,
        to: 2,
        from: 300,
        term: 5,
        reject: true,
        priority: -1,
        entries: vec![RaftEntry { kind: 0, term: 5, index: 9, data: Bytes::from_static(b"ab"), context: Bytes::new() }],
        ..RaftMessage::default()
    };
    let stream = encoded(&Frame::Raft(vec![message]));
    let (header, body) = stream.split_at(FRAME_HEADER_BYTES);
    assert_eq!(header[..8], [24, 0, 0, 0, 1, 1, 0, 0]);
    let fields = [1, 8, 1, 3, 2, 0xac, 2, 5, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 5, 9, 0, 2, b'a', b'b'];
    assert_eq!(body, fields);

    let beat = Beat { group: 3, to: 2, from: 300, term: 5, commit: 9 };
    for (frame, kind) in [(Frame::Beats(vec![beat]), 7), (Frame::BeatAnswers(vec![beat]), 8)] {
        let stream = encoded(&frame);
        assert_eq!(stream[..8], [7, 0, 0, 0, kind, 1, 0, 0]);
        assert_eq!(stream[FRAME_HEADER_BYTES..], [1, 3, 2, 0xac, 2, 5, 9]);
    }

    let stream = encoded(&Frame::LogEnd(300));
    assert_eq!(stream[..8], [2, 0, 0, 0, 12, 1, 0, 0]);
    assert_eq!(stream[FRAME_HEADER_BYTES..], [0xac, 2]);

    let hello = Hello { start_id: 4, log_end: 5, ..hello(1, 2) };
    let mut stream = BytesMut::new();
    encode_greeting(&Greeting::Hello(hello), &mut stream);
    assert_eq!(stream[..8], *b"QRTE\x01\x01\x2d\x00");
    assert_eq!(stream[12..41], [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0]);
    assert_eq!(stream[41..], [4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
}

fn hello(min_wire: u16, max_wire: u16) -> Hello {
    let (start_id, log_end) = (0, Hello::UNCHECKED);
    Hello { cluster: 1, node: 2, incarnation: 3, start_id, log_end, lane: Lane::Control, min_wire, max_wire }
}

#[test]
fn payloads_are_slices_of_what_was_received() {
    let data = Bytes::from(vec![7; 10_000]);
    let part = SnapshotPart { group: 1, transfer: 1, offset: 0, total_bytes: 10_000, data, message: None };
    let mut received = encoded(&Frame::Snapshot(part));
    let within = received.as_ptr_range();
    let Ok(Some(Frame::Snapshot(part))) = FrameDecoder::default().decode(&mut received) else { panic!("the frame is whole") };
    assert!(within.contains(&part.data.as_ptr()), "no copy was made");
}

#[test]
fn an_announced_length_beyond_the_limit_is_refused_before_the_body() {
    let mut stream = BytesMut::new();
    stream.put_u32_le((MAX_FRAME_BYTES - FRAME_HEADER_BYTES + 1) as u32);
    stream.put_slice(&[1, FRAME_FORMAT_VERSION, 0, 0, 0, 0, 0, 0]);
    let error = DecodeError::TooLarge { bytes: MAX_FRAME_BYTES + 1, max_bytes: MAX_FRAME_BYTES };
    assert_eq!(decode_all(&stream).1, Err(error));
}

#[test]
fn a_frame_beyond_a_limit_is_not_encoded() {
    let part = |bytes| {
        let data = Bytes::from(vec![0; bytes]);
        Frame::Snapshot(SnapshotPart { group: 0, transfer: 0, offset: 0, total_bytes: 0, data, message: None })
    };
    // The part's other fields take five bytes, the length of its data four.
    let most = MAX_FRAME_BYTES - FRAME_HEADER_BYTES - 9;
    let frame = part(most);
    assert_eq!(frame_bytes(&frame), Ok(MAX_FRAME_BYTES));
    assert_eq!(decode_all(&encoded(&frame)), (vec![frame], Ok(true)));

    let mut out = BytesMut::from(&b"before"[..]);
    assert_eq!(encode_frame(&part(most + 1), &mut out), Err(EncodeError::TooLarge(MAX_FRAME_BYTES + 1)));
    let many = Frame::Raft(vec![RaftMessage::default(); MAX_FRAME_ITEMS + 1]);
    assert_eq!(encode_frame(&many, &mut out), Err(EncodeError::TooManyItems(MAX_FRAME_ITEMS + 1)));
    assert_eq!(out, b"before"[..]);
}

#[test]
fn a_list_longer_than_its_bytes_or_its_limit_is_refused() {
    let forwards =
        |count: usize| Frame::Forward(vec![Forward { group: 0, origin: 0, sequence: 0, command: Bytes::new() }; count]);
    assert_eq!(decode_all(&encoded(&forwards(MAX_FRAME_ITEMS))).1, Ok(true), "the smallest items fill a list to its limit");

    let body_of = |count: &[u8], items: usize| {
        let body = [count, &vec![0; items][..]].concat();
        decode_all(&sealed(2, &body)).1
    };
    assert_eq!(body_of(&[2], 8), Ok(true));
    assert_eq!(body_of(&[3], 8), Err(DecodeError::TooManyItems(3)));
    let beyond = (MAX_FRAME_ITEMS + 1) as u64;
    assert_eq!(body_of(&[0x81, 0x80, 0x10], 4 * (MAX_FRAME_ITEMS + 1)), Err(DecodeError::TooManyItems(beyond)));
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(body_of(&huge, 8), Err(DecodeError::TooManyItems(u64::MAX)));
}

#[test]
fn integers_have_one_form() {
    // An acknowledgement is four integers' worth of bytes: group, transfer, offset, flags.
    let decode = |group: &[u8]| {
        let body = [group, &[0, 0, 0]].concat();
        decode_all(&sealed(5, &body)).1
    };
    assert_eq!(decode(&[0x80, 1]), Ok(true));
    assert_eq!(decode(&[0x80, 0]), Err(DecodeError::Integer));
    assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Ok(true));
    assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), Err(DecodeError::Integer));
    assert_eq!(decode(&[0x80; 11]), Err(DecodeError::Integer));
}

#[test]
fn wire_versions_meet_at_the_newest_common_one() {
    assert_eq!(hello(1, 3).common_wire(&hello(2, 5)), Ok(3));
    assert_eq!(hello(2, 5).common_wire(&hello(1, 2)), Ok(2));
    let refusal = hello(3, 4).common_wire(&hello(1, 2)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::WireVersion);
    assert_eq!(refusal.to_string(), "this node speaks wire versions 3 to 4, not 1 to 2");
}

#[test]
fn hellos_of_other_versions_are_understood_and_a_long_reason_is_cut_between_characters() {
    let hello = hello(1, 9);
    let mut stream = BytesMut::new();
    encode_greeting(&Greeting::Hello(hello.clone()), &mut stream);
    let resealed = |body: &[u8]| {
        let mut greeting = BytesMut::from(&stream[..6]);
        greeting.put_u16_le(body.len() as u16);
        greeting.put_u32_le(crc32c::crc32c_append(crc32c::crc32c(&greeting), body));
        greeting.put_slice(body);
        decode_greeting(&mut greeting)
    };
    assert_eq!(resealed(&[&stream[12..], b"more"].concat()), Ok(Some(Greeting::Hello(hello.clone()))));
    // Of wire version 1, which said neither start id nor log end.
    assert_eq!(resealed(&stream[12..41]), Ok(Some(Greeting::Hello(hello))));
    assert_eq!(resealed(&stream[12..40]), Err(DecodeError::Truncated));

    let refusal = Refusal { kind: RefusalKind::Other, reason: format!("x{}", "\u{e9}".repeat(600)) };
    let mut stream = BytesMut::new();
    encode_greeting(&Greeting::Refusal(refusal), &mut stream);
    let Ok(Some(Greeting::Refusal(refusal))) = decode_greeting(&mut stream) else { panic!("it was cut to fit") };
    assert_eq!(refusal.reason, format!("x{}", "\u{e9}".repeat(255)));
    assert_eq!(refusal.kind, RefusalKind::Other);
}

/// What lists are checked against before room is made for them.
#[test]
fn the_least_item_takes_what_its_list_assumes() {
    use super::lease::{MIN_LEASE_ANSWER_BYTES, MIN_LEASE_ASK_BYTES};
    use super::message::{MIN_BEAT_BYTES, MIN_FORWARD_BYTES, MIN_FORWARD_REPLY_BYTES, MIN_MESSAGE_BYTES};
    assert_eq!(message_bytes(&RaftMessage::default()), MIN_MESSAGE_BYTES);
    let body_bytes = |frame: Frame| frame_bytes(&frame).unwrap() - FRAME_HEADER_BYTES - 1;
    let forward = Forward { group: 0, origin: 0, sequence: 0, command: Bytes::new() };
    assert_eq!(body_bytes(Frame::Forward(vec![forward])), MIN_FORWARD_BYTES);
    let reply = ForwardReply { group: 0, origin: 0, sequence: 0, result: ForwardResult::Overloaded };
    assert_eq!(body_bytes(Frame::ForwardReply(vec![reply])), MIN_FORWARD_REPLY_BYTES);
    assert_eq!(body_bytes(Frame::Beats(vec![Beat::default()])), MIN_BEAT_BYTES);
    assert_eq!(body_bytes(Frame::LeaseAsks(vec![LeaseAsk::default()])), MIN_LEASE_ASK_BYTES);
    let answer = LeaseAnswer { group: 0, origin: 0, number: 0, result: LeaseResult::Overloaded };
    assert_eq!(body_bytes(Frame::LeaseAnswers(vec![answer])), MIN_LEASE_ANSWER_BYTES);
    assert_eq!(body_bytes(Frame::Eventual(vec![EventualMessage::default()])), eventual::MIN_EVENTUAL_BYTES);
}
