"""An erased model beside models that never saw the concept."""
