"""Messages for the errors of S3 servers and of botocore."""

from __future__ import annotations

import re

from ufgvc.core.errors import UnreadableFile, UserError

_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_RIGHTS = f"the credentials ({_KEYS}) and the bucket's rights"
_GO_ON = "the same command continues from there"
_BUCKET = ("there is no such bucket", "create the bucket or correct the URI")
_NAME = ("this is not a valid bucket name", "correct the URI")
_DENIED = ("access is refused", f"check {_RIGHTS}")
_NONE = ("no credentials were found", f"set {_KEYS}, or give this machine a role")
_EXPIRED = (
    "the credentials have expired",
    f"sign in again (`aws sso login`, or new keys with their AWS_SESSION_TOKEN); {_GO_ON}",
)
_TOKEN = (
    "the session token does not belong to the keys",
    "set AWS_SESSION_TOKEN to the token of these keys, or unset it",
)
_CLOCK = ("this machine's clock differs too much from the server's", "set the clock (NTP)")
_REGION = ("the bucket lies in another region", "set AWS_DEFAULT_REGION to the bucket's region")
_BUSY = ("the storage server asks to slow down, also after several attempts", f"try again later; {_GO_ON}")
_FAILS = ("the storage server fails, also after several attempts", f"try again later; {_GO_ON}")
_SILENT = ("the storage server does not answer", "check AWS_ENDPOINT_URL, HTTPS_PROXY and that the server runs")
_FULL = (
    "the storage has no space left, or its quota is used up",
    "free some space, raise the quota or use another bucket",
)
_ARCHIVED = ("is archived (Glacier) and cannot be read", "restore it first (`aws s3api restore-object`)")
_KMS = ("is encrypted with a key (KMS) that refuses", "ask for the right to use the key, or check that it is enabled")
_PROFILE = (
    "the profile that AWS_PROFILE names is not there",
    "correct AWS_PROFILE or AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE",
)
_SIGN_IN = ("the credentials could not be fetched", "sign in (`aws sso login`), or check the role and the profile")
_PROXY = ("the proxy does not answer or refuses", "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
_UNTRUSTED = (
    "the server's certificate is not trusted",
    "set AWS_CA_BUNDLE or SSL_CERT_FILE to a file with the certificate of its authority",
)
_NO_S3 = ("the server does not answer like S3", "check AWS_ENDPOINT_URL")
# By the error codes of S3 (the HTTP status if there is none), then by the names of botocore's own exceptions.
_EXPLANATIONS = {
    "NoSuchBucket": _BUCKET,
    **dict.fromkeys(("InvalidBucketName", "InvalidBucket"), _NAME),
    "InvalidAccessKeyId": ("the access key is not known to the server", f"set {_KEYS}"),
    "SignatureDoesNotMatch": ("the secret key is wrong", "set AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"),
    **dict.fromkeys(
        ("AccessDenied", "403", "401", "Forbidden", "AllAccessDisabled", "AccountProblem", "Unauthorized"), _DENIED
    ),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"), _EXPIRED),
    **dict.fromkeys(("InvalidToken", "InvalidClientTokenId"), _TOKEN),
    **dict.fromkeys(("RequestTimeTooSkewed", "RequestInTheFuture"), _CLOCK),
    **dict.fromkeys(("301", "307", "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"), _REGION),
    "IllegalLocationConstraintException": _REGION,
    **dict.fromkeys(
        ("SlowDown", "503", "429", "TooManyRequests", "ServiceUnavailable", "Throttling", "RequestLimitExceeded"), _BUSY
    ),
    **dict.fromkeys(("InternalError", "500", "502", "504", "OperationAborted", "RequestTimeout"), _FAILS),
    **dict.fromkeys(
        ("QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "507"), _FULL
    ),
    "InvalidObjectState": _ARCHIVED,
    "NoCredentialsError": _NONE,
    "PartialCredentialsError": ("only a part of the credentials was found", f"set {_KEYS}"),
    "ProfileNotFound": _PROFILE,
    **dict.fromkeys(
        ("CredentialRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError", "TokenRetrievalError"), _SIGN_IN
    ),
    **dict.fromkeys(("SSOError", "MetadataRetrievalError", "LoginRefreshRequired", "InvalidConfigError"), _SIGN_IN),
    **dict.fromkeys(
        ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"), _SILENT
    ),
    **dict.fromkeys(("ResponseStreamingError", "IncompleteReadError", "HTTPClientError", "ConnectionError"), _SILENT),
    **dict.fromkeys(("ProxyConnectionError", "InvalidProxiesConfigError", "407"), _PROXY),
    "SSLError": _UNTRUSTED,
    **dict.fromkeys(("ResponseParserError", "405", "NotImplemented", "501"), _NO_S3),
}
EXPIRED = frozenset(code for code, text in _EXPLANATIONS.items() if text in (_EXPIRED, _TOKEN))
# Also the answers of a cluster of servers to keys that have not reached all of them.
DENIED = frozenset(("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId"))
BUSY = frozenset(code for code, text in _EXPLANATIONS.items() if text is _BUSY)
MISSING = frozenset(("NoSuchKey", "404", "NotFound"))


def code_of(error: BaseException) -> str:
    """S3's code for an error, its HTTP status if there is no code, or the class name of botocore's own exception."""
    from botocore.exceptions import ClientError, ParamValidationError

    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code") or error.response["ResponseMetadata"]["HTTPStatusCode"])
    if isinstance(error, ParamValidationError) and "bucket name" in str(error):
        return "InvalidBucketName"
    return type(error).__name__


def s3_error(error: BaseException, where: str, reading: bool = False) -> UserError:
    """The UserError for an error of S3.

    where: the object or folder, as s3://bucket/key.  reading: one object was read; UnreadableFile if others may be
    readable.
    """
    code = code_of(error)
    if code.startswith("KMS."):
        what, fix = _KMS
    elif code in _EXPLANATIONS:
        what, fix = _EXPLANATIONS[code]
    else:
        text = re.sub(r"//[^/@\s]+@", "//***@", str(error)).splitlines()  # a URL may contain a password
        what, fix = f"storage failed: {text[0] if text else code}", f"check AWS_ENDPOINT_URL and {_RIGHTS}"
    single = reading and (what in (_DENIED[0], _ARCHIVED[0], _KMS[0]))
    return (UnreadableFile if single else UserError)(what, where=where, fix=fix)
