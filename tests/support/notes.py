"""What a conversion says beside its result."""


def note_of(report, words):
    """The notes of a report that contain these words."""
    return [note for note in report.notes if words in note]
