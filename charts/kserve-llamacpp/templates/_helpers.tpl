{{/* One object as YAML, with the release's labels beside its own. Takes root and object. */}}
{{- define "kserve-llamacpp.object" -}}
{{- $labels := dict "app.kubernetes.io/instance" .root.Release.Name "app.kubernetes.io/managed-by" .root.Release.Service "helm.sh/chart" (printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_")) -}}
{{- $_ := set .object.metadata "labels" (merge (.object.metadata.labels | default dict) $labels) -}}
---
{{ toYaml .object }}
{{ end -}}

{{/* One of the files, parsed. Takes root and name. */}}
{{- define "kserve-llamacpp.file" -}}
{{- .root.Files.Get (printf "files/%s.yaml" .name) -}}
{{- end -}}
