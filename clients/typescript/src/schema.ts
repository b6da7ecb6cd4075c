// Made by `npm run schema` from the server's OpenAPI document; do not edit.

export interface components {
    schemas: {
        /**
         * AgainstBody
         * @description The other document under the same first side: `gap` is the difference of the scores.
         */
        AgainstBody: {
            /**
             * By First
             * @description what each segment of `first` adds to the gap
             */
            by_first: number[];
            /**
             * Gap
             * @description `score` less the other's: all cells of `table` less all cells of the other table
             */
            gap: number;
            /** Pairs */
            pairs: components["schemas"]["PairBody"][];
            /** Score */
            score: number;
            side: components["schemas"]["SideBody"];
            /** Table */
            table: number[][];
        };
        /**
         * AliasIn
         * @description What an alias shall name.
         */
        AliasIn: {
            /** Index */
            index: string;
        };
        /**
         * AliasOut
         * @description An alias.
         */
        AliasOut: {
            /** Alias */
            alias: string;
            /** Index */
            index: string;
            /**
             * Object
             * @default alias
             * @constant
             */
            object?: "alias";
        };
        /**
         * Alive
         * @description The process runs.
         */
        Alive: {
            /**
             * Status
             * @constant
             */
            status: "alive";
        };
        /**
         * AuditBody
         * @description What a vector was made from, signed. The text is there as a hash only.
         */
        AuditBody: {
            /** Record */
            record: {
                [key: string]: unknown;
            };
            /**
             * Signature
             * @description base64: Ed25519 over the record's JSON, keys sorted, no spaces, in ASCII
             */
            signature: string;
        };
        /**
         * CentredBody
         * @description The same with the mean subtracted from both vectors; rows and columns as in `table`.
         */
        CentredBody: {
            /**
             * First
             * @description contributions of the segments of `first`
             */
            first: number[];
            mean: components["schemas"]["MeanBody"];
            /** Score */
            score: number;
            /** Second */
            second: number[];
            /** Table */
            table: number[][];
        };
        /**
         * CentredOut
         * @description The same with the collection's mean subtracted from both vectors; rows and columns as in the raw table.
         */
        CentredOut: {
            /** Score */
            score: number;
            /** Table */
            table: number[][];
        };
        /**
         * ChangeBody
         * @description The one sentence whose removal moves the document furthest in the index.
         */
        ChangeBody: {
            /**
             * Rank
             * @description null: beyond 1000
             */
            rank: number | null;
            /** Segment */
            segment: number;
            /**
             * Side
             * @enum {string}
             */
            side: "first" | "second";
        };
        /**
         * ChangeOut
         * @description The one sentence whose removal moves the hit furthest among the hits.
         */
        ChangeOut: {
            /**
             * Rank
             * @description that the hit would have
             */
            rank: number;
            /** Segment */
            segment: number;
            /**
             * Side
             * @enum {string}
             */
            side: "query" | "document";
        };
        /**
         * CohereMeta
         * @description What Cohere tells about an answer.
         */
        CohereMeta: {
            api_version: components["schemas"]["CohereVersion"];
            billed_units: components["schemas"]["CohereUnits"];
        };
        /**
         * CohereRequest
         * @description Cohere's request. Fields it may grow are ignored, as its clients expect; `rationale` is ours.
         * @example {
         *       "input_type": "search_document",
         *       "model": "grace-tiny",
         *       "texts": [
         *         "The river rises in the hills."
         *       ]
         *     }
         */
        CohereRequest: {
            /**
             * Embedding Types
             * @description `float`, `base64` (little-endian float32), or both; by default `float`
             */
            embedding_types?: ("float" | "base64")[] | null;
            /**
             * Images
             * @description refused: there are only texts here
             */
            images?: unknown;
            /**
             * Input Type
             * @description `search_query` is read under the instruction for queries, all else under that for documents
             */
            input_type?: ("search_document" | "search_query" | "classification" | "clustering") | null;
            /**
             * Inputs
             * @description refused: texts go into `texts`
             */
            inputs?: unknown;
            /**
             * Max Tokens
             * @description refused: texts are cut where the model's limit is
             */
            max_tokens?: unknown;
            /**
             * Model
             * @description name, fingerprint or alias of the model served
             */
            model?: string | null;
            /**
             * Output Dimension
             * @description keep this many leading dimensions
             */
            output_dimension?: number | null;
            /**
             * Rationale
             * @description give the rationales as a further key
             * @default false
             */
            rationale?: boolean;
            /**
             * Texts
             * @description what to embed
             */
            texts: string[];
            /**
             * Truncate
             * @description `END`, the default, cuts a text over the token limit; `NONE` answers 413 instead
             */
            truncate?: ("NONE" | "END") | null;
        };
        /**
         * CohereResponse
         * @description The embeddings, in the order of the texts.
         */
        CohereResponse: {
            /** Embeddings */
            embeddings: number[][] | components["schemas"]["CohereVectors"];
            /** Id */
            id: string;
            meta: components["schemas"]["CohereMeta"];
            /** Rationales */
            rationales?: components["schemas"]["RationaleBody"][];
            /**
             * Response Type
             * @enum {string}
             */
            response_type: "embeddings_floats" | "embeddings_by_type";
            /** Texts */
            texts: string[];
        };
        /**
         * CohereUnits
         * @description Tokens of the whole request: those of the prompts, and those of the rationales.
         */
        CohereUnits: {
            /** Input Tokens */
            input_tokens: number;
            /** Output Tokens */
            output_tokens: number;
        };
        /** CohereVectors */
        CohereVectors: {
            /** Base64 */
            base64?: string[];
            /** Float */
            float?: number[][];
        };
        /**
         * CohereVersion
         * @description Which of Cohere's formats this is.
         */
        CohereVersion: {
            /**
             * Version
             * @enum {string}
             */
            version: "1" | "2";
        };
        /**
         * CountsOut
         * @description Documents by state.
         */
        CountsOut: {
            /** Cancelled */
            cancelled: number;
            /** Failed */
            failed: number;
            /** Pending */
            pending: number;
            /** Ready */
            ready: number;
        };
        /**
         * DeletedOut
         * @description How many documents were there and are gone.
         */
        DeletedOut: {
            /** Deleted */
            deleted: number;
            /**
             * Object
             * @default deleted
             * @constant
             */
            object?: "deleted";
        };
        /**
         * DeleteIn
         * @description Which documents to delete: one of the two.
         */
        DeleteIn: {
            /** Filter */
            filter?: {
                [key: string]: unknown;
            } | null;
            /** Ids */
            ids?: string[] | null;
        };
        /**
         * DocumentIn
         * @description A document to write. With a rationale, that one is pooled; with a vector, no model is asked.
         */
        DocumentIn: {
            /**
             * Id
             * @description 1..512 bytes, no control characters
             */
            id: string;
            /**
             * Metadata
             * @description any JSON, to filter by
             */
            metadata?: {
                [key: string]: unknown;
            } | null;
            /** Rationale */
            rationale?: string | null;
            /**
             * Text
             * @description may be left out only beside a vector
             */
            text?: string | null;
            /** Vector */
            vector?: number[] | null;
        };
        /**
         * DocumentOut
         * @description A stored document.
         */
        DocumentOut: {
            /** Fingerprint */
            fingerprint: string | null;
            /**
             * Given
             * @description what the vector is made from, beside the text
             * @enum {string}
             */
            given: "text" | "rationale" | "vector";
            /** Id */
            id: string;
            /** Metadata */
            metadata: {
                [key: string]: unknown;
            };
            /**
             * Object
             * @default document
             * @constant
             */
            object?: "document";
            rationale: components["schemas"]["RationaleOut"] | null;
            /**
             * Reason
             * @description why it could not be embedded
             */
            reason: string | null;
            /**
             * Seq
             * @description number of its last change
             */
            seq: number;
            /**
             * State
             * @enum {string}
             */
            state: "pending" | "ready" | "failed" | "cancelled";
            /** Text */
            text: string;
            /** Truncated */
            truncated: boolean;
        };
        /**
         * DocumentPage
         * @description Documents in the order of their ids.
         */
        DocumentPage: {
            /** Data */
            data: components["schemas"]["DocumentOut"][];
            /**
             * Next
             * @description pass as `after` for the next page; null at the end
             */
            next: string | null;
            /**
             * Object
             * @default list
             * @constant
             */
            object?: "list";
        };
        /**
         * DocumentsIn
         * @description A batch, taken whole or not at all.
         */
        DocumentsIn: {
            /**
             * Documents
             * @description 1..10000, ids distinct
             */
            documents: components["schemas"]["DocumentIn"][];
            /**
             * Wait
             * @description answer only when all are embedded or have failed
             * @default false
             */
            wait?: boolean;
        };
        /**
         * EmbeddingItem
         * @description One embedding.
         */
        EmbeddingItem: {
            /** Embedding */
            embedding: number[] | string;
            /** Index */
            index: number;
            /**
             * Object
             * @constant
             */
            object: "embedding";
            rationale?: components["schemas"]["RationaleBody"] | null;
        };
        /**
         * EmbeddingsRequest
         * @description OpenAI's request. Fields it may grow are ignored, as its clients expect; `role`, `mode`, `rationale` are ours.
         * @example {
         *       "input": "The river rises in the hills.",
         *       "model": "grace-tiny"
         *     }
         */
        EmbeddingsRequest: {
            /**
             * Dimensions
             * @description keep this many leading dimensions
             */
            dimensions?: number | null;
            /**
             * Encoding Format
             * @description `float` by default; clients ask for `base64`
             */
            encoding_format?: ("float" | "base64") | null;
            /**
             * Input
             * @description a text, or several
             */
            input: string | string[];
            /**
             * Mode
             * @description `direct` writes no rationale and pools the text alone
             * @default reason
             * @enum {string}
             */
            mode?: "reason" | "direct";
            /**
             * Model
             * @description name, fingerprint or alias of the model served
             */
            model: string;
            /**
             * Rationale
             * @description give each item its rationale as a further key
             * @default false
             */
            rationale?: boolean;
            /**
             * Role
             * @description which instruction the model reads the texts under
             * @default document
             * @enum {string}
             */
            role?: "document" | "query";
            /**
             * Seed
             * @description refused: rationales are greedy, and repeatable without one
             */
            seed?: unknown;
            /**
             * User
             * @description accepted and not used
             */
            user?: string | null;
        };
        /**
         * EmbeddingsResponse
         * @description The embeddings, in the order of the input.
         */
        EmbeddingsResponse: {
            /** Data */
            data: components["schemas"]["EmbeddingItem"][];
            /** Model */
            model: string;
            /**
             * Object
             * @constant
             */
            object: "list";
            usage: components["schemas"]["EmbeddingsUsage"];
        };
        /**
         * EmbeddingsUsage
         * @description Tokens of the whole request; the total has those of the rationales.
         */
        EmbeddingsUsage: {
            /** Prompt Tokens */
            prompt_tokens: number;
            /** Total Tokens */
            total_tokens: number;
        };
        /**
         * EmbedItem
         * @description One text, embedded.
         */
        EmbedItem: {
            /** @description a line for `grace-index audit verify` */
            audit: components["schemas"]["AuditBody"] | null;
            /** Cached */
            cached: boolean;
            /**
             * Consistency
             * @description mean pairwise cosine of n rationales' vectors
             */
            consistency: number | null;
            /** Embedding */
            embedding: number[] | string;
            /** Index */
            index: number;
            /** Input Tokens */
            input_tokens: number;
            /**
             * Object
             * @constant
             */
            object: "embedding";
            rationale: components["schemas"]["RationaleBody"] | null;
            /**
             * Segments
             * @description their shares add up to 1
             */
            segments: components["schemas"]["SegmentBody"][] | null;
            /**
             * Sources
             * @description the same by source
             */
            sources: components["schemas"]["SourceBody"][] | null;
            /** Truncated */
            truncated: boolean;
        };
        /**
         * EmbedRequest
         * @description What to embed, and how. A field that is not listed here is refused.
         * @example {
         *       "explain": true,
         *       "input": "The river rises in the hills."
         *     }
         */
        EmbedRequest: {
            /**
             * Audit
             * @description a signed record of what each vector was made from; needs a key at the server
             * @default false
             */
            audit?: boolean;
            /**
             * Dimensions
             * @description keep this many leading dimensions
             */
            dimensions?: number | null;
            /**
             * Encoding Format
             * @description `base64` is little-endian float32
             * @default float
             * @enum {string}
             */
            encoding_format?: "float" | "base64";
            /**
             * Explain
             * @description tell the share of each segment in its vector
             * @default false
             */
            explain?: boolean;
            /**
             * Input
             * @description a text, or several
             */
            input: string | string[];
            /**
             * Max Rationale Tokens
             * @description budget of each rationale
             */
            max_rationale_tokens?: number | null;
            /**
             * Mode
             * @description `direct` writes no rationale and pools the text alone
             * @default reason
             * @enum {string}
             */
            mode?: "reason" | "direct";
            /**
             * N
             * @description rationales per text, whose vectors are averaged; needs a temperature above 0
             * @default 1
             */
            n?: number;
            /**
             * Normalize
             * @description scale the vector to length 1
             * @default true
             */
            normalize?: boolean;
            /**
             * Pooling
             * @description which states are averaged; by default as the checkpoint says
             */
            pooling?: ("mean" | "rationale" | "input" | "last") | null;
            /**
             * Rationale
             * @description rationales to pool instead of writing some
             */
            rationale?: string | string[] | null;
            /**
             * Role
             * @description which instruction the model reads the text under
             * @default document
             * @enum {string}
             */
            role?: "document" | "query";
            /**
             * Stream
             * @description server-sent events: the rationale as it is written, then the vector
             * @default false
             */
            stream?: boolean;
            /**
             * Temperature
             * @description 0 is greedy; by default as the checkpoint says
             */
            temperature?: number | null;
            /**
             * Truncate
             * @description cut a text over the token limit; `false` answers 413 instead
             * @default true
             */
            truncate?: boolean;
        };
        /**
         * EmbedResponse
         * @description The embeddings, in the order of the input.
         */
        EmbedResponse: {
            /** Data */
            data: components["schemas"]["EmbedItem"][];
            /** Fingerprint */
            fingerprint: string;
            /** Model */
            model: string;
            /**
             * Object
             * @constant
             */
            object: "list";
            usage: components["schemas"]["EmbedUsage"];
        };
        /**
         * EmbedUsage
         * @description Tokens of the whole request.
         */
        EmbedUsage: {
            /** Completion Tokens */
            completion_tokens: number;
            /** Prompt Tokens */
            prompt_tokens: number;
            /** Total Tokens */
            total_tokens: number;
        };
        /**
         * ErrorBody
         * @description The envelope of every error, on every route.
         */
        ErrorBody: {
            error: components["schemas"]["ErrorDetail"];
        };
        /**
         * ErrorDetail
         * @description What went wrong.
         */
        ErrorDetail: {
            /** Code */
            code: string;
            /** Message */
            message: string;
            /** Param */
            param: string | null;
            /** Type */
            type: string;
        };
        /**
         * ExplainRequest
         * @description What to compare, and how. A field that is not listed here is refused.
         * @example {
         *       "first": "Where does the river rise?",
         *       "second": "The river rises in the hills. It is long."
         *     }
         */
        ExplainRequest: {
            /** @description why `second` scores higher or lower than this: the difference of the two tables */
            against?: string | components["schemas"]["SideIn"] | null;
            /**
             * Centred
             * @description the same with the mean of `index` subtracted from both vectors
             * @default false
             */
            centred?: boolean;
            /**
             * Dimensions
             * @description keep this many leading dimensions
             */
            dimensions?: number | null;
            /** @description a text, or an object; a query unless it says otherwise */
            first: string | components["schemas"]["SideIn"];
            /**
             * Index
             * @description compare as this index does; a side may then be a document of it, given by `id`
             */
            index?: string | null;
            /**
             * Max Rationale Tokens
             * @description budget of each rationale
             */
            max_rationale_tokens?: number | null;
            /**
             * Mode
             * @description `direct` writes no rationale; by default `reason`, or as `index` says
             */
            mode?: ("reason" | "direct") | null;
            /**
             * N
             * @description rationales per text, whose vectors are averaged; needs a temperature above 0
             * @default 1
             */
            n?: number;
            /**
             * Pooling
             * @description which states are averaged; by default as the checkpoint says
             */
            pooling?: ("mean" | "rationale" | "input" | "last") | null;
            /**
             * Ranks
             * @description of a query and a document of `index`: ranks in it, without each segment
             * @default true
             */
            ranks?: boolean;
            /** @description the same; a document unless it says otherwise */
            second: string | components["schemas"]["SideIn"];
            /**
             * Temperature
             * @description 0 is greedy; by default as the checkpoint says
             */
            temperature?: number | null;
            /**
             * Tokens
             * @description what every token adds; runs both sides once more, without writing
             * @default false
             */
            tokens?: boolean;
            /**
             * Top Pairs
             * @description how many pairs to list by their contribution
             * @default 10
             */
            top_pairs?: number;
            /** @description the score, and the rank, without these segments */
            without?: components["schemas"]["WithoutIn"] | null;
        };
        /**
         * ExplainResponse
         * @description A score and all it is made of. Exact arithmetic of the score, not a claim about causes.
         */
        ExplainResponse: {
            against: components["schemas"]["AgainstBody"] | null;
            centred: components["schemas"]["CentredBody"] | null;
            /** Fingerprint */
            fingerprint: string;
            first: components["schemas"]["SideBody"];
            /** Index */
            index: string | null;
            largest_change: components["schemas"]["ChangeBody"] | null;
            /** Model */
            model: string;
            /**
             * Object
             * @constant
             */
            object: "explanation";
            /**
             * Pairs
             * @description the largest cells, largest first
             */
            pairs: components["schemas"]["PairBody"][];
            /**
             * Pooling
             * @enum {string}
             */
            pooling: "mean" | "rationale" | "input" | "last";
            /**
             * Rank
             * @description of the document for this query in the index; null beyond 1000
             */
            rank: number | null;
            /**
             * Ranks Exact
             * @description whether the index compared every vector for the ranks
             */
            ranks_exact: boolean | null;
            /**
             * Score
             * @description cosine of the two vectors
             */
            score: number;
            second: components["schemas"]["SideBody"];
            /**
             * Table
             * @description a row per segment of `first`; all cells add up to the score
             */
            table: number[][];
            usage: components["schemas"]["EmbedUsage"];
            without: components["schemas"]["WithoutBody"] | null;
        };
        /**
         * ExplanationOut
         * @description A score and all it is made of. Exact arithmetic of the score, not a claim about causes.
         */
        ExplanationOut: {
            /** @description where `centred` was asked for and the metric is `cosine` */
            centred: components["schemas"]["CentredOut"] | null;
            /** Document */
            document: components["schemas"]["PieceOut"][];
            /** Document Gram */
            document_gram: number[][] | null;
            /** @description null if no single removal moves it */
            largest_change: components["schemas"]["ChangeOut"] | null;
            /**
             * Pairs
             * @description the largest cells, largest first
             */
            pairs: components["schemas"]["PairOut"][];
            /** Query */
            query: components["schemas"]["PieceOut"][];
            /**
             * Query Gram
             * @description where `grams` was asked for: inner products of the side's segments, adding up to 1; null over 500 segments
             */
            query_gram: number[][] | null;
            /**
             * Rank
             * @description among the hits of this answer, from 1
             */
            rank: number | null;
            /**
             * Score
             * @description of dense search; in a hybrid one the dense part
             */
            score: number;
            sources: components["schemas"]["PortionsOut"];
            /**
             * Table
             * @description a row per segment of `query`; all cells add up to the score
             */
            table: number[][];
        };
        /**
         * PlaceOut
         * @description Where a query lies on a map.
         */
        grace_server__index__routes__maps__PlaceOut: {
            /**
             * Object
             * @default map_place
             * @constant
             */
            object?: "map_place";
            /** X */
            x: number;
            /** Y */
            y: number;
        };
        /**
         * PlaceOut
         * @description Rank and score of a hit in one of the lists that a hybrid search fuses.
         */
        grace_server__index__routes__search__PlaceOut: {
            /**
             * Contribution
             * @description to the fused score, which is the sum of both lists'
             */
            contribution: number;
            /** Rank */
            rank: number;
            /** Score */
            score: number;
        };
        /**
         * HitOut
         * @description A document found.
         */
        HitOut: {
            /** @description hybrid only */
            dense: components["schemas"]["grace_server__index__routes__search__PlaceOut"] | null;
            explanation: components["schemas"]["ExplanationOut"] | null;
            /** Id */
            id: string;
            /** @description hybrid only */
            lexical: components["schemas"]["grace_server__index__routes__search__PlaceOut"] | null;
            /** Metadata */
            metadata: {
                [key: string]: unknown;
            };
            /**
             * Not Explained
             * @description why there is no explanation, where one was asked for
             */
            not_explained: string | null;
            rationale: components["schemas"]["RationaleOut"] | null;
            /** Score */
            score: number;
            /** Text */
            text: string;
        };
        /**
         * IndexIn
         * @description A new index.
         */
        IndexIn: {
            settings?: components["schemas"]["SettingsIn"] | null;
        };
        /**
         * IndexList
         * @description All indexes.
         */
        IndexList: {
            /** Data */
            data: components["schemas"]["IndexOut"][];
            /**
             * Object
             * @default list
             * @constant
             */
            object?: "list";
        };
        /**
         * IndexOut
         * @description An index, described.
         */
        IndexOut: {
            /** Aliases */
            aliases: string[];
            /**
             * Bytes
             * @description on disk
             */
            bytes: number;
            /**
             * Checkpoint Age S
             * @description null: there is none, as for a flat index
             */
            checkpoint_age_s: number | null;
            /**
             * Created At
             * @description seconds since 1970
             */
            created_at: number;
            /** Dimensions */
            dimensions: number;
            documents: components["schemas"]["CountsOut"];
            /**
             * Doubts
             * @description checkpoints not believed at the last start, and failures in the background
             */
            doubts: string[];
            /**
             * Fingerprint
             * @description of the model that built it
             */
            fingerprint: string | null;
            /**
             * Index Kind
             * @description what answers dense searches now
             */
            index_kind: string;
            /** Name */
            name: string;
            /**
             * Object
             * @default index
             * @constant
             */
            object?: "index";
            /**
             * Rows
             * @description documents with a vector
             */
            rows: number;
            /**
             * Seq
             * @description number of the last change
             */
            seq: number;
            /** Settings */
            settings: {
                [key: string]: unknown;
            };
            /**
             * Tombstones
             * @description deleted rows that a compaction will drop
             */
            tombstones: number;
        };
        /**
         * Info
         * @description The service, described.
         */
        Info: {
            /**
             * Audit Key
             * @description public key (PEM) of audit records
             */
            audit_key: string | null;
            /** Dtype */
            dtype: string;
            /** Engine */
            engine: string;
            /** Fingerprint */
            fingerprint: string;
            /** Instruction */
            instruction: {
                [key: string]: string;
            };
            limits: components["schemas"]["Limits"];
            /** Model */
            model: string;
            /** Pooling */
            pooling: string;
            /** Settings */
            settings: {
                [key: string]: unknown;
            };
            /** Similarity */
            similarity: string;
            /** Versions */
            versions: {
                [key: string]: string;
            };
        };
        /**
         * JobFailureOut
         * @description A document that could not be embedded.
         */
        JobFailureOut: {
            /** Id */
            id: string;
            /** Reason */
            reason: string;
        };
        /**
         * JobOut
         * @description Progress of a job: `total` = `done` + `failed` + `superseded` + `left`.
         */
        JobOut: {
            /**
             * Created At
             * @description seconds since 1970
             */
            created_at: number;
            /** Done */
            done: number;
            /** Failed */
            failed: number;
            /**
             * Failures
             * @description the first 1,000
             */
            failures: components["schemas"]["JobFailureOut"][];
            /** Finished At */
            finished_at: number | null;
            /** Id */
            id: string;
            /** Left */
            left: number;
            /**
             * Object
             * @default job
             * @constant
             */
            object?: "job";
            /**
             * Rate
             * @description documents per second of the last half minute
             */
            rate: number | null;
            /**
             * Seconds Left
             * @description at that rate
             */
            seconds_left: number | null;
            /**
             * State
             * @enum {string}
             */
            state: "running" | "done" | "cancelled";
            /**
             * Superseded
             * @description deleted, replaced or sent again before they were embedded
             */
            superseded: number;
            /** Total */
            total: number;
        };
        /**
         * Limits
         * @description What one request may ask for.
         */
        Limits: {
            /** Default Rationale Tokens */
            default_rationale_tokens: number;
            /** Dimensions */
            dimensions: number;
            /** Max Body Bytes */
            max_body_bytes: number;
            /** Max Input Chars */
            max_input_chars: number;
            /** Max Input Tokens */
            max_input_tokens: number;
            /** Max Inputs */
            max_inputs: number;
            /** Max Rationale Tokens */
            max_rationale_tokens: number;
            /** Max Samples */
            max_samples: number;
        };
        /**
         * MapFieldOut
         * @description A field of the metadata that points can be coloured by.
         */
        MapFieldOut: {
            /**
             * Distinct
             * @description values
             */
            distinct: number;
            /**
             * Documents
             * @description that have it
             */
            documents: number;
            /**
             * Kind
             * @description `number` if every value is one
             * @enum {string}
             */
            kind: "category" | "number";
            /** Name */
            name: string;
        };
        /**
         * MapOut
         * @description Documents on the plane of largest variance of their vectors; lists are in one order.
         */
        MapOut: {
            /**
             * Documents
             * @description with a vector; over 20000, points are an even choice of them
             */
            documents: number;
            /**
             * Explained
             * @description share of the variance along x and along y
             */
            explained: [
                number,
                number
            ];
            /** Fields */
            fields: components["schemas"]["MapFieldOut"][];
            /** Ids */
            ids: string[];
            /** Index */
            index: string;
            /**
             * Object
             * @default map
             * @constant
             */
            object?: "map";
            /**
             * Seq
             * @description number of the change it was drawn after; names the map in the other two requests
             */
            seq: number;
            /** X */
            x: number[];
            /** Y */
            y: number[];
        };
        /**
         * MeanBody
         * @description Which mean was subtracted: of all vectors of the index.
         */
        MeanBody: {
            /** Documents */
            documents: number;
            /** Index */
            index: string;
            /**
             * Length
             * @description between 0 and 1: how much all vectors have in common
             */
            length: number;
            /**
             * Seq
             * @description the last change it knows of
             */
            seq: number;
        };
        /**
         * MeanOut
         * @description Which mean centred tables took off: of all vectors of the index.
         */
        MeanOut: {
            /** Documents */
            documents: number;
            /** Index */
            index: string;
            /**
             * Length
             * @description between 0 and 1: how much all vectors have in common
             */
            length: number;
            /**
             * Seq
             * @description the last change it knows of
             */
            seq: number;
        };
        /**
         * ModelItem
         * @description A model one may ask for.
         */
        ModelItem: {
            /** Created */
            created: number;
            /** Id */
            id: string;
            /**
             * Object
             * @constant
             */
            object: "model";
            /** Owned By */
            owned_by: string;
        };
        /**
         * ModelList
         * @description All of them: the one that is served, and its aliases.
         */
        ModelList: {
            /** Data */
            data: components["schemas"]["ModelItem"][];
            /**
             * Object
             * @constant
             */
            object: "list";
        };
        /**
         * PairBody
         * @description What a segment of the first and one of the second add to the score, by their places.
         */
        PairBody: {
            /** Contribution */
            contribution: number;
            /** First */
            first: number;
            /** Second */
            second: number;
        };
        /**
         * PairOut
         * @description What a segment of the query and one of the document add to the score, by their places in the lists.
         */
        PairOut: {
            /** Contribution */
            contribution: number;
            /** Document */
            document: number;
            /** Query */
            query: number;
        };
        /**
         * PartBody
         * @description A segment of a side: a sentence of the text or of the rationale, or the template between them.
         */
        PartBody: {
            /**
             * Contribution
             * @description to the score; those of a side add up to it
             */
            contribution: number;
            /** End */
            end: number;
            /**
             * Rank Without
             * @description the rank in the index then; null beyond 1000, and where not asked
             */
            rank_without: number | null;
            /**
             * Sample
             * @description of which of n rationales it is; 0 for what they share
             */
            sample: number;
            /**
             * Share
             * @description of its own vector; those of a side add up to 1
             */
            share: number;
            /**
             * Source
             * @enum {string}
             */
            source: "input" | "template" | "rationale";
            /**
             * Start
             * @description in characters (code points) of the text or of the rationale
             */
            start: number;
            /** Text */
            text: string;
            /**
             * Tokens
             * @description whose states were pooled
             */
            tokens: number;
            /**
             * Without
             * @description the score with its sum left out; null if nothing would be left
             */
            without: number | null;
        };
        /**
         * PieceOut
         * @description A segment of the query or the document; offsets are into its text or its rationale.
         */
        PieceOut: {
            /**
             * Contribution
             * @description to the score: the sum of its pairs
             */
            contribution: number;
            /** End */
            end: number;
            /**
             * Rank Without
             * @description among the hits of this answer, with its sum left out; dense search with metric `cosine` only
             */
            rank_without: number | null;
            /**
             * Share
             * @description of its own vector; those of a side add up to 1
             */
            share: number;
            /**
             * Source
             * @enum {string}
             */
            source: "input" | "template" | "rationale";
            /** Start */
            start: number;
            /** Text */
            text: string;
            /** Tokens */
            tokens: number;
            /**
             * Without
             * @description the score with its sum left out; null if nothing would be left, and under metric `dot`
             */
            without: number | null;
        };
        /**
         * PlaceIn
         * @description A query to place on a map.
         */
        PlaceIn: {
            /**
             * Mode
             * @description of the query; null: as the index says
             */
            mode?: ("reason" | "direct") | null;
            /** Query */
            query: string;
            /**
             * Seq
             * @description of the map it is for
             */
            seq: number;
        };
        /**
         * PortionBody
         * @description What a source adds to the score.
         */
        PortionBody: {
            /** Contribution */
            contribution: number;
            /**
             * Share
             * @description of the score; null if that is 0
             */
            share: number | null;
            /**
             * Source
             * @enum {string}
             */
            source: "input" | "template" | "rationale";
        };
        /**
         * PortionOut
         * @description What a source adds to the score.
         */
        PortionOut: {
            /** Contribution */
            contribution: number;
            /**
             * Share
             * @description of the score; null if that is 0
             */
            share: number | null;
            /**
             * Source
             * @enum {string}
             */
            source: "input" | "template" | "rationale";
        };
        /**
         * PortionsOut
         * @description What text, template and rationale of either side add; each side's add up to the score.
         */
        PortionsOut: {
            /** Document */
            document: components["schemas"]["PortionOut"][];
            /** Query */
            query: components["schemas"]["PortionOut"][];
        };
        /**
         * QueryOut
         * @description The question as it was understood.
         */
        QueryOut: {
            rationale: components["schemas"]["RationaleOut"] | null;
            /** Text */
            text: string | null;
        };
        /**
         * RationaleBody
         * @description What the model wrote about a text.
         */
        RationaleBody: {
            /**
             * Finish Reason
             * @enum {string}
             */
            finish_reason: "stop" | "length" | "given";
            /**
             * Text
             * @description as written, with its tags
             */
            text: string;
            /**
             * Thinking
             * @description inside <think>
             */
            thinking: string;
            /** Tokens */
            tokens: number;
            /**
             * Understanding
             * @description after it
             */
            understanding: string;
        };
        /**
         * RationaleOut
         * @description What the model wrote about a text.
         */
        RationaleOut: {
            /**
             * Finish Reason
             * @enum {string}
             */
            finish_reason: "stop" | "length" | "given";
            /**
             * Text
             * @description as written, with its tags
             */
            text: string;
            /**
             * Thinking
             * @description inside <think>
             */
            thinking: string;
            /** Tokens */
            tokens: number;
            /**
             * Understanding
             * @description after it
             */
            understanding: string;
        };
        /**
         * Ready
         * @description The service takes requests.
         */
        Ready: {
            /**
             * Status
             * @constant
             */
            status: "ready";
        };
        /**
         * SearchesOut
         * @description What several questions found, in their order.
         */
        SearchesOut: {
            /** Results */
            results: components["schemas"]["SearchOut"][];
        };
        /**
         * SearchIn
         * @description A question to an index, or several at once.
         */
        SearchIn: {
            /**
             * Centred
             * @description beside it, subtract the index's mean from both vectors; needs `explain`
             * @default false
             */
            centred?: boolean;
            /**
             * Dense Weight
             * @description of the dense list in a hybrid search, where the lexical one's is 1; null: as measured best
             */
            dense_weight?: number | null;
            /**
             * Explain
             * @description take the score of every hit apart
             * @default false
             */
            explain?: boolean;
            /**
             * Filter
             * @description on metadata; see docs/search.md
             */
            filter?: {
                [key: string]: unknown;
            } | null;
            /**
             * Grams
             * @description with explanations, what the score without any set of sentences needs
             * @default false
             */
            grams?: boolean;
            /**
             * Index
             * @default default
             */
            index?: string;
            /**
             * K
             * @default 10
             */
            k?: number;
            /**
             * Method
             * @default dense
             * @enum {string}
             */
            method?: "dense" | "lexical" | "hybrid";
            /**
             * Mode
             * @description of the query; null: as the index says
             */
            mode?: ("reason" | "direct") | null;
            /**
             * Offset
             * @description hits to pass over, for paging
             * @default 0
             */
            offset?: number;
            /** Query */
            query?: string | string[] | null;
            /**
             * Threshold
             * @description leave out hits with a lower score
             */
            threshold?: number | null;
            /**
             * Top Pairs
             * @description pairs listed in each explanation
             * @default 10
             */
            top_pairs?: number;
            /**
             * Vector
             * @description instead of embedding the query
             */
            vector?: number[] | number[][] | null;
        };
        /**
         * SearchOut
         * @description What one question found.
         */
        SearchOut: {
            /**
             * Exact
             * @description true only if no other document could belong here
             */
            exact: boolean;
            /** Hits */
            hits: components["schemas"]["HitOut"][];
            /** @description what centred explanations took off */
            mean?: components["schemas"]["MeanOut"] | null;
            query: components["schemas"]["QueryOut"];
            timing_ms: components["schemas"]["TimingOut"];
        };
        /**
         * SegmentBody
         * @description A sentence of the text or of the rationale, or the template between them, and its share in the vector.
         */
        SegmentBody: {
            /** End */
            end: number;
            /**
             * Sample
             * @description of which of n rationales it is; 0 for what they share
             */
            sample: number;
            /** Share */
            share: number;
            /**
             * Source
             * @enum {string}
             */
            source: "input" | "template" | "rationale";
            /**
             * Start
             * @description in characters (code points) of the text or of the rationale
             */
            start: number;
            /** Text */
            text: string;
            /**
             * Tokens
             * @description whose states were pooled
             */
            tokens: number;
        };
        /**
         * SettingsIn
         * @description How documents are embedded, compared and kept. Fixed once the index is there.
         */
        SettingsIn: {
            /**
             * Build Width
             * @description HNSW: efConstruction
             * @default 128
             */
            build_width?: number;
            /**
             * Dimensions
             * @description keep this many leading dimensions; null keeps all
             */
            dimensions?: number | null;
            /**
             * Document Mode
             * @description null: as the checkpoint says
             */
            document_mode?: ("reason" | "direct") | null;
            /**
             * Durability
             * @description SQLite's `synchronous`
             * @default FULL
             * @enum {string}
             */
            durability?: "FULL" | "NORMAL";
            /**
             * Flat Limit
             * @description rows up to which every vector is compared
             * @default 50000
             */
            flat_limit?: number;
            /**
             * Kind
             * @description `auto`: exact up to `flat_limit` rows, IVF above
             * @default auto
             * @enum {string}
             */
            kind?: "auto" | "flat" | "hnsw" | "ivf";
            /**
             * Links
             * @description HNSW: neighbours per node
             * @default 32
             */
            links?: number;
            /**
             * Metric
             * @description `dot` keeps the lengths of the vectors
             * @default cosine
             * @enum {string}
             */
            metric?: "cosine" | "dot";
            /**
             * Pooling
             * @description null: the checkpoint's
             */
            pooling?: ("mean" | "rationale" | "input" | "last") | null;
            /**
             * Probes
             * @description IVF: share of the cells searched; null: measured
             */
            probes?: number | null;
            /**
             * Quantization
             * @description less memory; hits are scored exactly again
             * @default none
             * @enum {string}
             */
            quantization?: "none" | "sq8" | "pq";
            /**
             * Query Mode
             * @description null: as the checkpoint says
             */
            query_mode?: ("reason" | "direct") | null;
            /**
             * Recall
             * @description share of the true neighbours to measure those two at
             * @default 0.995
             */
            recall?: number;
            /**
             * Rescore
             * @description candidates scored exactly per hit
             * @default 4
             */
            rescore?: number;
            /**
             * Search Width
             * @description HNSW: efSearch; null: measured when the index is built
             */
            search_width?: number | null;
            /**
             * Sums
             * @description precision of what explanations are computed from; `none`: no explaining
             * @default float32
             * @enum {string}
             */
            sums?: "float32" | "float16" | "none";
        };
        /**
         * SideBody
         * @description One of the two, and what its vector is made of.
         */
        SideBody: {
            /** Cached */
            cached: boolean;
            /** Consistency */
            consistency: number | null;
            /**
             * Gram
             * @description inner products of its segments, adding up to 1; null over 500 segments
             */
            gram: number[][] | null;
            /**
             * Id
             * @description of a document of the index
             */
            id: string | null;
            /** Input Tokens */
            input_tokens: number;
            rationale: components["schemas"]["RationaleBody"] | null;
            /**
             * Role
             * @enum {string}
             */
            role: "document" | "query";
            /** Segments */
            segments: components["schemas"]["PartBody"][];
            /** Sources */
            sources: components["schemas"]["PortionBody"][];
            /**
             * Tokens
             * @description on request; their contributions add up to the score
             */
            tokens: components["schemas"]["TokenBody"][] | null;
            /**
             * Tokens Residual
             * @description the score less their sum: what the second pass rounds otherwise
             */
            tokens_residual: number | null;
            /** Truncated */
            truncated: boolean;
        };
        /**
         * SideIn
         * @description One of the two sides: a text, or a document of `index`.
         */
        SideIn: {
            /**
             * Id
             * @description or the id of a document of `index`, from stored sums
             */
            id?: string | null;
            /**
             * Rationale
             * @description of a text: pooled instead of writing one
             */
            rationale?: string | null;
            /**
             * Role
             * @description of a text; by default the first is a query, the second a document
             */
            role?: ("document" | "query") | null;
            /**
             * Text
             * @description either this
             */
            text?: string | null;
        };
        /**
         * SourceBody
         * @description What the text, the template and the rationale are of a vector.
         */
        SourceBody: {
            /** Share */
            share: number;
            /**
             * Source
             * @enum {string}
             */
            source: "input" | "template" | "rationale";
        };
        /**
         * TeiEmbedRequest
         * @description TEI's request.
         * @example {
         *       "inputs": [
         *         "The river rises in the hills."
         *       ]
         *     }
         */
        TeiEmbedRequest: {
            /**
             * Dimensions
             * @description keep this many leading dimensions
             */
            dimensions?: number | null;
            /**
             * Inputs
             * @description a text, or several
             */
            inputs: string | string[];
            /**
             * Normalize
             * @description scale the vectors to length 1
             * @default true
             */
            normalize?: boolean;
            /**
             * Prompt Name
             * @description which instruction the model reads the texts under; by default `document`
             */
            prompt_name?: ("document" | "query") | null;
            /**
             * Truncate
             * @description cut a text over the token limit; `false` answers 413 instead
             */
            truncate?: boolean | null;
            /**
             * Truncation Direction
             * @description only the end of a text is cut
             */
            truncation_direction?: ("right" | "Right") | null;
        };
        /**
         * TeiInfo
         * @description What TEI tells about itself, of this service.
         */
        TeiInfo: {
            /**
             * Auto Truncate
             * @constant
             */
            auto_truncate: true;
            /** Docker Label */
            docker_label: null;
            /** Max Batch Requests */
            max_batch_requests: number;
            /** Max Batch Tokens */
            max_batch_tokens: number;
            /** Max Client Batch Size */
            max_client_batch_size: number;
            /** Max Concurrent Requests */
            max_concurrent_requests: number;
            /** Max Input Length */
            max_input_length: number;
            /** Model Dtype */
            model_dtype: string;
            /** Model Id */
            model_id: string;
            /** Model Sha */
            model_sha: string;
            model_type: components["schemas"]["TeiModelType"];
            /** Sha */
            sha: null;
            /** Tokenization Workers */
            tokenization_workers: number;
            /** Version */
            version: string;
        };
        /**
         * TeiModelType
         * @description That the model embeds.
         */
        TeiModelType: {
            embedding: components["schemas"]["TeiPooling"];
        };
        /**
         * TeiParameters
         * @description What TEI's requests have in common. Fields it may grow are ignored, as its clients expect.
         */
        TeiParameters: {
            /**
             * Prompt Name
             * @description which instruction the model reads the texts under; by default `document`
             */
            prompt_name?: ("document" | "query") | null;
            /**
             * Truncate
             * @description cut a text over the token limit; `false` answers 413 instead
             */
            truncate?: boolean | null;
            /**
             * Truncation Direction
             * @description only the end of a text is cut
             */
            truncation_direction?: ("right" | "Right") | null;
        };
        /**
         * TeiPooling
         * @description Which of TEI's poolings ours comes nearest to.
         */
        TeiPooling: {
            /**
             * Pooling
             * @enum {string}
             */
            pooling: "mean" | "last_token";
        };
        /**
         * TeiSentences
         * @description One sentence, and those it is compared with.
         */
        TeiSentences: {
            /** Sentences */
            sentences: string[];
            /** Source Sentence */
            source_sentence: string;
        };
        /**
         * TeiSimilarityRequest
         * @description TEI's request for cosines.
         */
        TeiSimilarityRequest: {
            inputs: components["schemas"]["TeiSentences"];
            /** @description of all sentences alike */
            parameters?: components["schemas"]["TeiParameters"] | null;
        };
        /**
         * TimingOut
         * @description Milliseconds.
         */
        TimingOut: {
            /** Embed */
            embed: number;
            /** Search */
            search: number;
        };
        /**
         * TokenBody
         * @description A pooled token.
         */
        TokenBody: {
            /** Contribution */
            contribution: number;
            /**
             * Segment
             * @description its place among the segments of its side
             */
            segment: number;
            /**
             * Text
             * @description empty where a character is still in the making
             */
            text: string;
        };
        /**
         * ValuesOut
         * @description A field's value at each point of a map, in its order.
         */
        ValuesOut: {
            /** Field */
            field: string;
            /**
             * Kind
             * @enum {string}
             */
            kind: "category" | "number";
            /**
             * Names
             * @description up to 64 categories, most frequent first; empty for numbers
             */
            names: string[];
            /**
             * Object
             * @default map_values
             * @constant
             */
            object?: "map_values";
            /**
             * Values
             * @description numbers; or places in `names`, one past its end for rarer ones; null: no value
             */
            values: (number | null)[];
        };
        /**
         * WithoutBody
         * @description The score without the segments that were named.
         */
        WithoutBody: {
            /** Rank */
            rank: number | null;
            /**
             * Score
             * @description null if nothing would be left
             */
            score: number | null;
        };
        /**
         * WithoutIn
         * @description Segments to leave out, by their places.
         */
        WithoutIn: {
            /** First */
            first?: number[];
            /** Second */
            second?: number[];
        };
        /**
         * WrittenOut
         * @description What became of a batch. Everything in it is durable.
         */
        WrittenOut: {
            /** Documents */
            documents: number;
            job: components["schemas"]["JobOut"];
            /**
             * Object
             * @default written
             * @constant
             */
            object?: "written";
            /**
             * Unchanged
             * @description sent before with the same contents: nothing was done for them
             */
            unchanged: number;
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}

export type schemas = components["schemas"];
