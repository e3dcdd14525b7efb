//! Every message of the four protocols and of extension 0x0001 (spec 8), one declaration each.
//!
//! A declaration in the `messages!` table yields the struct, its codec, type, channel bit and `Display`, the
//! protocol's enum and the list that fuzz targets and documents are made from.

use std::fmt;

use crate::codec::FieldError;
use crate::frame::Header;
use crate::tlv::Tlvs;

/// What all messages have.
pub trait Message<'a>: Sized + fmt::Display {
    /// Spec name, dots included.
    const NAME: &'static str;
    /// The extension that defines the message; 0 for the core protocols.
    const EXTENSION: u16;
    /// `msg_type` in the header.
    const TYPE: u8;
    /// Whether the payload begins with a channel id.
    const CHANNEL: bool;

    /// Reads a whole payload; what follows the fields is returned as TLVs.
    ///
    /// # Errors
    /// [`DecodeError`] with the field and offset at which the payload stops making sense.
    fn decode(payload: &'a [u8]) -> Result<(Self, Tlvs<'a>), DecodeError>;
    /// Appends the payload.
    fn encode(&self, out: &mut Vec<u8>);
    /// Bytes that [`encode`](Message::encode) appends.
    fn encoded_len(&self) -> usize;
}

/// A payload is not what its header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// A field cannot be read.
    #[error("{message}.{field} at byte {offset}: {kind}")]
    Field {
        /// Spec name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Payload offset at which the field begins.
        offset: usize,
        /// What is wrong with it.
        kind: FieldError,
    },
    /// No message of this protocol has this type.
    #[error("no message of {protocol} has type {msg_type:#04x} (extension {extension_type:#06x})")]
    Unknown {
        /// The protocol that was being read.
        protocol: &'static str,
        /// Extension in the header.
        extension_type: u16,
        /// Type in the header.
        msg_type: u8,
    },
    /// The channel bit of the header contradicts the message's definition.
    #[error("{message}: channel bit is {found}, must be {}", !.found)]
    ChannelBit {
        /// Spec name of the message.
        message: &'static str,
        /// The bit as received.
        found: bool,
    },
}

/// A row of the message table (spec 8).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MessageInfo {
    /// Spec name, dots included.
    pub name: &'static str,
    /// Defining extension; 0 for the core protocols.
    pub extension_type: u16,
    /// `msg_type` in the header.
    pub msg_type: u8,
    /// Whether the payload begins with a channel id.
    pub channel_msg: bool,
    /// The fields in order: name and Rust type as declared.
    pub fields: &'static [(&'static str, &'static str)],
}

macro_rules! messages {
    (
        $(#[$enum_doc:meta])*
        enum $protocol:ident, extension $extension:literal;
        $(
            $(#[$doc:meta])*
            $type_id:literal $spec:literal $name:ident $(<$lt:lifetime>)? $channel:ident {
                $( $(#[$field_doc:meta])* $field:ident: $field_type:ty, )+
            }
        )+
    ) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq)]
            pub struct $name $(<$lt>)? {
                $( $(#[$field_doc])* pub $field: $field_type, )+
            }

            impl $(<$lt>)? $name $(<$lt>)? {
                /// `msg_type` in the header.
                pub const TYPE: u8 = $type_id;
            }

            impl<'a> $crate::messages::Message<'a> for $name $(<$lt>)? {
                const NAME: &'static str = $spec;
                const EXTENSION: u16 = $extension;
                const TYPE: u8 = $type_id;
                const CHANNEL: bool = messages!(@bit $channel);

                #[inline]
                fn decode(payload: &'a [u8]) -> Result<(Self, $crate::tlv::Tlvs<'a>), $crate::messages::DecodeError> {
                    let rest = payload;
                    $(
                        let (rest, $field) = match <$field_type as $crate::codec::Field<'a>>::read(rest) {
                            Ok(read) => read,
                            Err(error) => return Err($crate::messages::field_error(
                                $spec, stringify!($field), payload.len() - rest.len(), error,
                            )),
                        };
                    )+
                    Ok((Self { $($field),+ }, $crate::tlv::Tlvs::new(rest)))
                }

                #[inline]
                fn encode(&self, out: &mut Vec<u8>) {
                    $( $crate::codec::Field::write(&self.$field, out); )+
                }

                #[inline]
                fn encoded_len(&self) -> usize {
                    0 $( + $crate::codec::Field::encoded_len(&self.$field) )+
                }
            }

            impl $(<$lt>)? ::std::fmt::Display for $name $(<$lt>)? {
                fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                    f.write_str($spec)?;
                    f.write_str(" {")?;
                    let mut separator = " ";
                    $(
                        f.write_str(separator)?;
                        f.write_str(concat!(stringify!($field), ": "))?;
                        $crate::codec::Field::show(&self.$field, f)?;
                        #[allow(unused_assignments)]
                        { separator = ", "; }
                    )+
                    f.write_str(" }")
                }
            }
        )+

        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum $protocol<'a> {
            $( #[doc = $spec] $name($name $(<$lt>)?), )+
        }

        impl<'a> $protocol<'a> {
            /// The messages in the order of their types.
            pub const ALL: &'static [$crate::messages::MessageInfo] = &[
                $( $crate::messages::MessageInfo {
                    name: $spec,
                    extension_type: $extension,
                    msg_type: $type_id,
                    channel_msg: messages!(@bit $channel),
                    fields: &[$((stringify!($field), stringify!($field_type))),+],
                }, )+
            ];

            /// Reads the payload that `header` announces; what follows the fields is returned as TLVs.
            ///
            /// # Errors
            /// [`DecodeError`]($crate::messages::DecodeError) where the type is unknown here, the channel bit is wrong
            /// or a field cannot be read.
            pub fn decode(
                header: &$crate::frame::Header,
                payload: &'a [u8],
            ) -> Result<(Self, $crate::tlv::Tlvs<'a>), $crate::messages::DecodeError> {
                if header.extension_type == $extension {
                    match header.msg_type {
                        $( $type_id => {
                            $crate::messages::check_channel_bit::<$name $(<$lt>)?>(header)?;
                            return <$name $(<$lt>)? as $crate::messages::Message>::decode(payload)
                                .map(|(message, tlvs)| (Self::$name(message), tlvs));
                        } )+
                        _ => {}
                    }
                }
                Err($crate::messages::DecodeError::Unknown {
                    protocol: stringify!($protocol),
                    extension_type: header.extension_type,
                    msg_type: header.msg_type,
                })
            }

            /// Spec name of the message.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$name(_) => $spec, )+ }
            }

            /// Appends the frame: header and payload.
            pub fn encode_frame(&self, out: &mut Vec<u8>) {
                match self { $( Self::$name(message) => $crate::frame::encode_frame(message, out), )+ }
            }
        }

        impl ::std::fmt::Display for $protocol<'_> {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                match self { $( Self::$name(message) => message.fmt(f), )+ }
            }
        }
    };
    (@bit channel) => { true };
    (@bit connection) => { false };
}

pub mod common;
pub mod extensions;
pub mod job_declaration;
pub mod mining;
pub mod template_distribution;

macro_rules! any_message {
    ($($variant:ident($enum:ty),)+) => {
        /// A message of any protocol, as a tool sees it that does not know what is spoken on a connection.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum AnyMessage<'a> {
            $( #[doc = stringify!($variant)] $variant($enum), )+
        }

        impl<'a> AnyMessage<'a> {
            /// Every message that this crate knows, in the order of spec 8.
            pub fn all() -> impl Iterator<Item = &'static MessageInfo> {
                [$( <$enum>::ALL ),+].into_iter().flatten()
            }

            /// Reads the payload that `header` announces.
            ///
            /// # Errors
            /// As the protocols' own `decode`.
            pub fn decode(header: &Header, payload: &'a [u8]) -> Result<(Self, Tlvs<'a>), DecodeError> {
                $(
                    match <$enum>::decode(header, payload) {
                        Err(DecodeError::Unknown { .. }) => {}
                        other => return other.map(|(message, tlvs)| (Self::$variant(message), tlvs)),
                    }
                )+
                Err(DecodeError::Unknown {
                    protocol: "any protocol",
                    extension_type: header.extension_type,
                    msg_type: header.msg_type,
                })
            }

            /// Spec name of the message.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$variant(message) => message.name(), )+ }
            }

            /// Appends the frame: header and payload.
            pub fn encode_frame(&self, out: &mut Vec<u8>) {
                match self { $( Self::$variant(message) => message.encode_frame(out), )+ }
            }
        }

        impl fmt::Display for AnyMessage<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $( Self::$variant(message) => message.fmt(f), )+ }
            }
        }
    };
}

any_message! {
    Common(common::Common<'a>),
    Mining(mining::Mining<'a>),
    JobDeclaration(job_declaration::JobDeclaration<'a>),
    TemplateDistribution(template_distribution::TemplateDistribution<'a>),
    Extensions(extensions::Extensions<'a>),
}

fn check_channel_bit<'a, M: Message<'a>>(header: &Header) -> Result<(), DecodeError> {
    if header.channel_msg == M::CHANNEL {
        return Ok(());
    }
    Err(DecodeError::ChannelBit { message: M::NAME, found: header.channel_msg })
}

#[cold]
fn field_error(
    message: &'static str,
    field: &'static str,
    offset: usize,
    error: nom::Err<FieldError>,
) -> DecodeError {
    let kind = match error {
        nom::Err::Error(kind) | nom::Err::Failure(kind) => kind,
        nom::Err::Incomplete(_) => FieldError::Truncated,
    };
    DecodeError::Field { message, field, offset, kind }
}
