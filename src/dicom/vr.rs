//! Value representations: how long their lengths and their values are.

use dicom_core::VR;

/// Value representations with lengths of 16 bits (PS3.5 7.1.2). All others, also those that are not known, have 32 bits.
const SHORT: [&[u8; 2]; 21] = [
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL",
    b"SS", b"ST", b"TM", b"UI", b"UL", b"US",
];
/// The others that are known; what is not known is read as UN.
const LONG: [&[u8; 2]; 13] =
    [b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"];

/// Whether the length of an element has 16 bits.
pub(super) fn has_short_length(vr: [u8; 2]) -> bool {
    SHORT.contains(&&vr)
}

/// The value representation, or UN for one that is not known.
pub(super) fn known(vr: [u8; 2]) -> [u8; 2] {
    if has_short_length(vr) || LONG.contains(&&vr) { vr } else { *b"UN" }
}

/// Bytes of a single value (PS3.5 6.2).
pub(super) fn unit_bytes(vr: VR) -> u32 {
    match vr {
        VR::US | VR::SS | VR::OW => 2,
        VR::AT | VR::FL | VR::OF | VR::OL | VR::SL | VR::UL => 4,
        VR::FD | VR::OD | VR::OV | VR::SV | VR::UV => 8,
        _ => 1,
    }
}
