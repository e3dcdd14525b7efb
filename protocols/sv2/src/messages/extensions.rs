//! Extension 0x0001, negotiation of extensions.

use crate::codec::Seq064K;

messages! {
    /// A message of extension 0x0001.
    enum Extensions, extension 0x0001;

    /// The client asks for extensions, right after `SetupConnection.Success`.
    0x00 "RequestExtensions" RequestExtensions<'a> connection {
        /// Pairs the answer.
        request_id: u16,
        /// Ids of the extensions that the client wants.
        requested_extensions: Seq064K<'a, u16>,
    }
    /// The extensions in force.
    0x01 "RequestExtensions.Success" RequestExtensionsSuccess<'a> connection {
        /// From the request.
        request_id: u16,
        /// Those of the requested extensions that the server supports.
        supported_extensions: Seq064K<'a, u16>,
    }
    /// None of the requested extensions is supported, or a required one was not requested.
    0x02 "RequestExtensions.Error" RequestExtensionsError<'a> connection {
        /// From the request.
        request_id: u16,
        /// Requested, not supported.
        unsupported_extensions: Seq064K<'a, u16>,
        /// Required by the server, not requested.
        required_extensions: Seq064K<'a, u16>,
    }
}
