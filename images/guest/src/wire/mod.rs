//! The wire protocol: frames, and the messages in them. See the crate's documentation.

mod frame;
mod message;

pub use frame::{
    Decoder, Frame, FrameError, FrameKind, HELLO_LEN, MAX_PAYLOAD, PROTOCOL_VERSION, check_hello,
    encode, header, hello,
};
pub use message::{
    AgentState, Answer, ExecSpec, ExitStatus, IdentityProof, IdentityRequest, MAX_ARGS,
    MAX_ENV_BYTES, MAX_PATH, MAX_REQUEST, MessageError, NetworkRequest, Request, RequestAssembler,
    STDIN_WINDOW, decode_answer, encode_answer, encode_request,
};
