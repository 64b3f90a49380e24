"""The exceptions that tunesmith raises; each is also the built-in that fits it.

TunesmithError
├── SpaceError (ValueError)            a search space, a parameter or a suggestion that cannot be
├── SettingError (ValueError)          an argument of a search that cannot be, or that contradicts another
├── UnknownBackendError (ValueError)   a backend or runner that is not registered
├── MissingDependencyError (RuntimeError)  an optional package that is not installed
├── StudyChangedError (ValueError)     a study of that name exists with another space or other directions
├── StudyLockedError (RuntimeError)    another process is driving the study
├── RankLostError (RuntimeError)       a rank of a distributed job has died, or did not come
├── SearchFailedError (RuntimeError)   the search was ended because its trials fail
├── UserFunctionError (RuntimeError)   a function of the search's own raised, such as hp_space: a bug, not a failed trial
├── ServiceError (ConnectionError)     a service that proposes trials refuses, or cannot be reached
├── DiskFullError (OSError)             a trial cannot save: the disk that holds its directory is full
├── ModelNotSavedError (RuntimeError)  the best trial's model was not saved and cannot be rebuilt
└── RecordError (OSError)              the study's file cannot be read or written
    ├── RecordCorruptError             it is damaged
    ├── RecordVersionError             it was written by a newer version
    ├── RecordReadOnlyError            it may not be written
    └── RecordFullError                the disk is full
"""


class TunesmithError(Exception):
    """Anything that tunesmith raises on purpose."""


class SpaceError(TunesmithError, ValueError):
    """A search space, a parameter or a suggestion that cannot be."""


class SettingError(TunesmithError, ValueError):
    """An argument of a search that cannot be, or that contradicts another."""


class UnknownBackendError(TunesmithError, ValueError):
    """A backend or runner that is not registered."""


class MissingDependencyError(TunesmithError, RuntimeError):
    """An optional package that is not installed."""


class StudyChangedError(TunesmithError, ValueError):
    """A study of that name exists with another space or other directions."""


class StudyLockedError(TunesmithError, RuntimeError):
    """Another process is driving the study."""


class RankLostError(TunesmithError, RuntimeError):
    """A rank of a distributed job has died, or did not begin the search."""


class SearchFailedError(TunesmithError, RuntimeError):
    """The search was ended because its trials fail."""


class UserFunctionError(TunesmithError, RuntimeError):
    """`hp_space`, `compute_objective`, `constraints` or `hp_name` raised: a bug in the search's own functions, not a failed trial."""


class ServiceError(TunesmithError, ConnectionError):
    """A service that proposes trials refuses, or cannot be reached."""


class DiskFullError(TunesmithError, OSError):
    """A trial cannot save: the disk that holds its directory is full."""


class ModelNotSavedError(TunesmithError, RuntimeError):
    """The best trial's model was not saved and cannot be rebuilt."""


class RecordError(TunesmithError, OSError):
    """The study's file cannot be read or written."""


class RecordCorruptError(RecordError):
    """The study's file is damaged."""


class RecordVersionError(RecordError):
    """The study's file was written by a newer version."""


class RecordReadOnlyError(RecordError):
    """The study's file or directory may not be written."""


class RecordFullError(RecordError):
    """The disk that holds the study's file is full."""
