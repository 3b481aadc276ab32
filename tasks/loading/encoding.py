"""Text to token ids, kept in the cache of `datasets`, so that a second start is quick."""

from collections.abc import Iterator, Sequence

from tasks.loading.hub import first_line

LAYOUT = 1  # raise it when `_encodings` changes: the cache knows this function by name, not by content


def encode(tokenizer, *columns: Sequence[str], cached: bool, target: bool = False, max_length: int | None = None):
    """The model inputs of each text, or pair of texts: a list of {"input_ids": [...], ...}.

    Args:
        columns: one sequence of texts, or two of the same length.
        cached: keep the result on disk, under a key of texts, tokenizer and settings. It is worth it on real data sets.
        target: the texts are the targets of a translation model.
        max_length: the tokenizer cuts longer texts and keeps its end token; in a pair it cuts the longer text first.
            None cuts nothing. The model's own limit holds as well.
    """
    columns = tuple(tuple(column) for column in columns)
    limit = None if max_length is None else min(max_length, tokenizer.model_max_length)
    arguments = dict(tokenizer=tokenizer, columns=columns, target=target, limit=limit, layout=LAYOUT)
    if not cached:
        return list(_encodings(**arguments))
    import datasets

    if tokenizer.is_fast:  # its last call's settings are not part of the key
        tokenizer.backend_tokenizer.no_truncation()
    try:
        return datasets.Dataset.from_generator(_encodings, gen_kwargs=arguments).to_list()
    except (datasets.exceptions.DatasetsError, OSError) as error:
        raise ValueError(
            f"the tokenized texts cannot be kept in {datasets.config.HF_DATASETS_CACHE} (HF_DATASETS_CACHE names "
            f"another folder): {first_line(error.__cause__ or error)}"
        ) from error


def _encodings(tokenizer, columns, target, limit, layout) -> Iterator[dict[str, list[int]]]:
    options = dict(return_attention_mask=False, verbose=False)
    if limit is not None:
        options |= dict(truncation=True, max_length=limit)
    for start in range(0, len(columns[0]), 1000):  # a thousand at a time bounds the memory
        texts = [list(column[start : start + 1000]) for column in columns]
        out = tokenizer(text_target=texts[0], **options) if target else tokenizer(*texts, **options)
        for row in range(len(texts[0])):
            yield {name: values[row] for name, values in out.items()}
