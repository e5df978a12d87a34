"""The history side: what existed before the change stream began, copied slice by slice."""
